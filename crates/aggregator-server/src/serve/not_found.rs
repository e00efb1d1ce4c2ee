//! The detail of a 404: names the path that was probably meant.

use strsim::osa_distance;

/// How much of a path is repeated to its sender. No longer path is nearly right.
const MAX_CHARS: usize = 64;

/// Names the one of `paths` that was probably meant, or all of them.
pub(super) fn nothing_at(path: &str, paths: &[&str]) -> String {
    if path.len() > MAX_CHARS {
        let shown: String = path.chars().take(MAX_CHARS).collect();
        return format!("there is nothing at {shown}…: {}", all(paths));
    }
    match nearest(path, paths) {
        Some(nearest) => format!("there is nothing at {path}: did you mean {nearest}?"),
        None => format!("there is nothing at {path}: {}", all(paths)),
    }
}

fn all(paths: &[&str]) -> String {
    format!("the paths are {}", paths.join(", "))
}

/// The path that differs in at most two characters. Slashes around it and capitals do not count.
fn nearest<'p>(path: &str, paths: &[&'p str]) -> Option<&'p str> {
    const MOST_WRONG: usize = 2;
    let name = path.trim_matches('/').to_ascii_lowercase();
    let wrong = |candidate: &&str| osa_distance(candidate.trim_start_matches('/'), &name);
    paths.iter().copied().min_by_key(wrong).filter(|nearest| wrong(nearest) <= MOST_WRONG)
}

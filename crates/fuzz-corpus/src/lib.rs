//! The stored inputs of the fuzz targets, `fuzz/corpus/TARGET/`, as ordinary tests.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Makes a module of tests, one for each target: the functions of these names beside it.
#[macro_export]
macro_rules! corpus_tests {
    ($($target:ident),+ $(,)?) => {
        mod corpus {
            $(
                #[test]
                fn $target() {
                    $crate::run(stringify!($target), super::$target);
                }
            )+
        }
    };
}

/// Hands every stored input of the target to `check`. Libtest shows what the target said, and of which input.
///
/// # Panics
/// If the target has no folder or no input, if `check` panics, and if no program in `fuzz/fuzz_targets/` runs it.
#[expect(clippy::print_stdout, reason = "libtest captures it, and shows it if the test fails")]
pub fn run(target: &str, check: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let program = fuzz.join("fuzz_targets").join(target).with_extension("rs");
    assert!(program.is_file(), "{} is missing: a fuzzer cannot run the target", program.display());
    for input in inputs(&fuzz.join("corpus").join(target)) {
        let bytes = fs::read(&input).unwrap_or_else(|error| panic!("{}: {error}", input.display()));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            println!("the input is {}", input.display());
            resume_unwind(panic);
        }
    }
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an entry of a folder").path()).collect();
    assert!(!inputs.is_empty(), "{} has no input", folder.display());
    inputs.sort();
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "nowhere.rs is missing")]
    fn a_target_without_a_program_is_noticed() {
        run("nowhere", |_| ());
    }

    #[test]
    #[should_panic(expected = "nowhere: ")]
    fn a_missing_folder_is_noticed() {
        inputs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("nowhere"));
    }

    #[test]
    #[should_panic(expected = "has no input")]
    fn an_empty_folder_is_noticed() {
        let folder = std::env::temp_dir().join(format!("fuzz-corpus-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let found = catch_unwind(|| inputs(&folder));
        fs::remove_dir(&folder).unwrap();
        if let Err(panic) = found {
            resume_unwind(panic);
        }
    }
}

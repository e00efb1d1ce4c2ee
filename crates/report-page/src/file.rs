//! A file that is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A report to be written. A path that cannot be written is noticed before the work begins, and a file that was there stays
/// until the new one is whole.
#[derive(Debug, Clone)]
pub struct ReportFile {
    path: PathBuf,
    /// Its name until it is whole.
    part: PathBuf,
}

impl ReportFile {
    /// Makes sure that `path` can be written.
    ///
    /// # Errors
    /// When there is something else than a file, or no file can be made beside it.
    pub fn claim(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
        match fs::metadata(path) {
            Ok(there) if there.is_dir() => return Err(io::Error::other("it is a directory")),
            // Renaming would replace a device or a pipe, instead of writing to it.
            Ok(there) if !there.is_file() => return Err(io::Error::other("it is no ordinary file")),
            _ => {}
        }
        let mut part = OsString::from(".");
        part.push(name);
        part.push(format!(".{}.part", std::process::id()));
        let part = path.with_file_name(part);
        // It is not kept: a run that is killed leaves nothing.
        File::create(&part).and_then(|_| fs::remove_file(&part))?;
        Ok(Self { path: path.to_owned(), part })
    }

    /// Writes the report, and only then gives it its name.
    ///
    /// # Errors
    /// When it cannot be written; then the name is as before.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let written = self.write_part(text).and_then(|()| fs::rename(&self.part, &self.path));
        if written.is_err() {
            // What was written of it is of no use.
            let _ = fs::remove_file(&self.part);
        }
        written
    }

    fn write_part(&self, text: &str) -> io::Result<()> {
        let mut file = File::create(&self.part)?;
        file.write_all(text.as_bytes())?;
        // Or a power cut could leave the name with an empty file.
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("report-page-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_report_has_its_name_once_it_is_whole() {
        let scratch = Scratch::new("whole");
        let path = scratch.0.join("run.html");
        fs::write(&path, "the one before").unwrap();
        let file = ReportFile::claim(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "the one before");
        file.write("the new one").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "the new one");
        assert_eq!(scratch.names(), ["run.html"]);
    }

    #[test]
    fn a_report_that_is_not_written_leaves_nothing() {
        let scratch = Scratch::new("nothing");
        let path = scratch.0.join("run.html");
        let file = ReportFile::claim(&path).unwrap();
        assert_eq!(scratch.names(), Vec::<String>::new());
        // A directory in its place cannot be replaced.
        fs::create_dir(&path).unwrap();
        assert!(file.write("text").is_err());
        assert_eq!(scratch.names(), ["run.html"]);
    }

    #[test]
    fn what_cannot_be_written_is_refused_at_once() {
        let scratch = Scratch::new("refused");
        let refused = |path: &Path| ReportFile::claim(path).unwrap_err().to_string();
        assert_eq!(refused(&scratch.0), "it is a directory");
        assert_eq!(refused(Path::new("/dev/null")), "it is no ordinary file");
        assert_eq!(refused(Path::new("..")), "it names no file");
        assert!(refused(&scratch.0.join("no/run.html")).contains("No such file"));
    }
}

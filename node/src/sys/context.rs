//! What was being done, and to what, when a system call failed.

use std::{
    error, fmt, io,
    path::{Path, PathBuf},
};

/// Adds to an error what was being done to which path; its kind stays.
pub trait Context<T> {
    /// `action` is a verb: "open", "clone".
    ///
    /// # Errors
    /// The one that it was called on.
    fn during(self, action: &'static str, path: &Path) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn during(self, action: &'static str, path: &Path) -> io::Result<T> {
        self.map_err(|error| {
            let source = error.into();
            io::Error::new(source.kind(), Failure { action, path: path.to_owned(), source })
        })
    }
}

#[derive(Debug)]
struct Failure {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.action, self.path, self.source)
    }
}

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_stays_and_the_text_names_the_path() {
        let error = std::fs::File::open("/nowhere/at/all").during("open", Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "open \"/nowhere/at/all\": No such file or directory (os error 2)");
    }
}

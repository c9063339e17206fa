//! Where the master key comes from.
//!
//! The first of these that is given: `--key-file`, the environment (`VARVE_MASTER_KEY_FILE` or `VARVE_MASTER_KEY`,
//! never both), `key_file` of the configuration, and last the [default path](DEFAULT_FILE). Only `varve standalone` makes
//! a key of its own accord: at the default path, where there is neither a key nor a repository yet.

use std::{env, ffi::OsString, path::Path, path::PathBuf};

use varve_repository::crypto::MasterKey;

use crate::{config::Access, failure::Usage};

/// Where `varve standalone` looks for a key, and keeps one it makes, when none is named.
pub(crate) const DEFAULT_FILE: &str = "/var/lib/varve/master.key";

/// Environment variable that names the key's file.
const FILE_VARIABLE: &str = "VARVE_MASTER_KEY_FILE";
/// Environment variable that holds the key.
const KEY_VARIABLE: &str = "VARVE_MASTER_KEY";

/// Where a key is to be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file.
    File(PathBuf),
    /// The environment variable [`KEY_VARIABLE`].
    Environment,
}

/// Finds where the key is said to be; `None` where nothing says so.
///
/// # Errors
/// `Usage` where the environment contradicts itself.
pub(crate) fn origin(access: &Access) -> Result<Option<Origin>, Usage> {
    decide(access, env::var_os(FILE_VARIABLE), env::var_os(KEY_VARIABLE).is_some())
}

fn decide(access: &Access, file: Option<OsString>, key: bool) -> Result<Option<Origin>, Usage> {
    if let Some(path) = &access.key_argument {
        return Ok(Some(Origin::File(path.clone())));
    }
    match (file, key) {
        (Some(_), true) => Err(Usage(format!("both {FILE_VARIABLE} and {KEY_VARIABLE} are set: expected one of them"))),
        (Some(path), false) => Ok(Some(Origin::File(path.into()))),
        (None, true) => Ok(Some(Origin::Environment)),
        (None, false) => Ok(access.key_config.clone().map(Origin::File)),
    }
}

impl Origin {
    /// Reads the key.
    ///
    /// # Errors
    /// Those of [`MasterKey`]; they name the origin and never the content.
    pub(crate) fn read(&self) -> varve_repository::Result<MasterKey> {
        match self {
            Self::File(path) => MasterKey::from_file(path),
            Self::Environment => MasterKey::from_environment(KEY_VARIABLE),
        }
    }
}

/// Reads the key of a command that never makes one.
///
/// # Errors
/// `Usage` where none is named, and those of [`Origin::read`].
pub(crate) fn required(access: &Access) -> anyhow::Result<MasterKey> {
    match origin(access)? {
        Some(origin) => Ok(origin.read()?),
        None if Path::new(DEFAULT_FILE).exists() => Ok(MasterKey::from_file(Path::new(DEFAULT_FILE))?),
        None => Err(Usage(format!(
            "no master key is given: expected --key-file FILE, {FILE_VARIABLE}, {KEY_VARIABLE} or `key_file` in the \
             configuration"
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(argument: Option<&str>, config: Option<&str>) -> Access {
        Access {
            url: "file:///srv/varve".into(),
            store: Default::default(),
            key_argument: argument.map(Into::into),
            key_config: config.map(Into::into),
        }
    }

    fn file(path: &str) -> Option<Origin> {
        Some(Origin::File(path.into()))
    }

    #[test]
    fn arguments_win_over_the_environment_and_that_over_the_configuration() {
        let all = access(Some("/argument"), Some("/config"));
        assert_eq!(decide(&all, Some("/environment".into()), true).expect("unambiguous"), file("/argument"));
        let config = access(None, Some("/config"));
        assert_eq!(decide(&config, Some("/environment".into()), false).expect("unambiguous"), file("/environment"));
        assert_eq!(decide(&config, None, true).expect("unambiguous"), Some(Origin::Environment));
        assert_eq!(decide(&config, None, false).expect("unambiguous"), file("/config"));
        assert_eq!(decide(&access(None, None), None, false).expect("unambiguous"), None);
    }

    #[test]
    fn an_environment_that_contradicts_itself_is_refused() {
        let error = decide(&access(None, None), Some("/environment".into()), true).expect_err("both are set");
        assert!(error.to_string().contains(FILE_VARIABLE) && error.to_string().contains(KEY_VARIABLE));
    }
}

//! Where the master key comes from.
//!
//! The first of these that is given: `--key-file`, the environment (`VARVE_MASTER_KEY_FILE` or `VARVE_MASTER_KEY`,
//! never both), `key_file` of the configuration, and last the [default path](DEFAULT_FILE). Only `varve standalone` makes
//! a key of its own accord: at the default path, where there is neither a key nor a repository yet.

use std::{env, ffi::OsString, path::Path, path::PathBuf};

use varve_repository::{crypto::MasterKey, seam::Entropy};

use crate::{config::Access, failure::Usage};

/// Where `varve standalone` looks for a key, and keeps one it makes, when none is named.
pub(crate) const DEFAULT_FILE: &str = "/var/lib/varve/master.key";

/// Environment variable that names the key's file.
const FILE_VARIABLE: &str = "VARVE_MASTER_KEY_FILE";
/// Environment variable that holds the key.
const KEY_VARIABLE: &str = "VARVE_MASTER_KEY";
/// Environment variable that names the file of a key that is to be put beside or in the place of the other.
const NEW_FILE_VARIABLE: &str = "VARVE_NEW_MASTER_KEY_FILE";
/// Environment variable that holds such a key.
const NEW_KEY_VARIABLE: &str = "VARVE_NEW_MASTER_KEY";
/// Environment variable that names the file of the key of the repository that is copied to.
const TO_FILE_VARIABLE: &str = "VARVE_TO_MASTER_KEY_FILE";
/// Environment variable that holds that key.
const TO_KEY_VARIABLE: &str = "VARVE_TO_MASTER_KEY";

/// Where a key is to be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file.
    File(PathBuf),
    /// An environment variable: [`KEY_VARIABLE`], [`NEW_KEY_VARIABLE`] or [`TO_KEY_VARIABLE`].
    Environment(&'static str),
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
    let environment = of_environment((FILE_VARIABLE, file), (KEY_VARIABLE, key))?;
    Ok(environment.or_else(|| access.key_config.clone().map(Origin::File)))
}

/// Finds the one of two variables that is set.
fn of_environment(
    (file_variable, file): (&'static str, Option<OsString>),
    (key_variable, key): (&'static str, bool),
) -> Result<Option<Origin>, Usage> {
    match (file, key) {
        (Some(_), true) => Err(Usage(format!("both {file_variable} and {key_variable} are set: expected one of them"))),
        (Some(path), false) => Ok(Some(Origin::File(path.into()))),
        (None, true) => Ok(Some(Origin::Environment(key_variable))),
        (None, false) => Ok(None),
    }
}

/// Finds where a key is that is to be put beside or in the place of the other: the argument, else the environment.
///
/// # Errors
/// `Usage` where nothing says so, or the environment contradicts itself.
pub(crate) fn new_origin(argument: Option<&Path>) -> Result<Origin, Usage> {
    if let Some(path) = argument {
        return Ok(Origin::File(path.into()));
    }
    let file = (NEW_FILE_VARIABLE, env::var_os(NEW_FILE_VARIABLE));
    let key = (NEW_KEY_VARIABLE, env::var_os(NEW_KEY_VARIABLE).is_some());
    of_environment(file, key)?.ok_or_else(|| {
        Usage(format!(
            "no new master key is given: expected --new-key-file FILE, {NEW_FILE_VARIABLE} or {NEW_KEY_VARIABLE}"
        ))
    })
}

/// Reads the key of the repository that is copied to: the argument's, else the environment's, else the configuration's.
///
/// # Errors
/// `Usage` where nothing says where it is, or the environment contradicts itself, and those of [`Origin::read`].
pub(crate) fn of_copy(access: &Access) -> anyhow::Result<MasterKey> {
    let file = (TO_FILE_VARIABLE, env::var_os(TO_FILE_VARIABLE));
    let key = (TO_KEY_VARIABLE, env::var_os(TO_KEY_VARIABLE).is_some());
    let origin = match &access.key_argument {
        Some(path) => Some(Origin::File(path.clone())),
        None => of_environment(file, key)?.or_else(|| access.key_config.clone().map(Origin::File)),
    };
    let origin = origin.ok_or_else(|| {
        Usage(format!(
            "no master key of the repository to copy to is given: expected --to-key-file FILE, {TO_FILE_VARIABLE}, \
             {TO_KEY_VARIABLE} or `key_file` under [copy] in the configuration"
        ))
    })?;
    Ok(origin.read()?)
}

impl Origin {
    /// Reads the key.
    ///
    /// # Errors
    /// Those of [`MasterKey`]; they name the origin and never the content.
    pub(crate) fn read(&self) -> varve_repository::Result<MasterKey> {
        match self {
            Self::File(path) => MasterKey::from_file(path),
            Self::Environment(name) => MasterKey::from_environment(name),
        }
    }

    /// Reads the key, or makes it where it is to be in a file that is not there yet; says whether it was made.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) and [`MasterKey::write_new`], `Usage` for a key of the environment.
    pub(crate) fn read_or_make(&self, entropy: &dyn Entropy) -> anyhow::Result<(MasterKey, bool)> {
        match self {
            Self::File(path) if !path.try_exists()? => {
                let key = MasterKey::generate(entropy);
                key.write_new(path)?;
                Ok((key, true))
            }
            Self::File(_) => Ok((self.read()?, false)),
            Self::Environment(name) => {
                Err(Usage(format!("--generate makes a key in a file: expected --new-key-file FILE, not {name}")).into())
            }
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
            memory: varve_repository::memory::Memory::DEFAULT,
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
        assert_eq!(decide(&config, None, true).expect("unambiguous"), Some(Origin::Environment(KEY_VARIABLE)));
        assert_eq!(decide(&config, None, false).expect("unambiguous"), file("/config"));
        assert_eq!(decide(&access(None, None), None, false).expect("unambiguous"), None);
    }

    #[test]
    fn an_environment_that_contradicts_itself_is_refused() {
        let error = decide(&access(None, None), Some("/environment".into()), true).expect_err("both are set");
        assert!(error.to_string().contains(FILE_VARIABLE) && error.to_string().contains(KEY_VARIABLE));
    }
}

//! The repository that is copied to: where it is, and with which key and credentials.
//!
//! What its store needs is taken from variables whose names begin with `VARVE_TO_`, as in `VARVE_TO_AWS_ACCESS_KEY_ID`;
//! from `[copy.store]` of the configuration; and what neither says from the variables that both stores share.

use std::{env, path::PathBuf};

use anyhow::anyhow;
use varve_repository::{Error, Repository, seam::Seams, store::Store};

use crate::{
    arguments::RepositoryAccess,
    config::{Access, File},
    failure::Usage,
    key,
};

/// What the names of variables for the second repository begin with.
const PREFIX: &str = "VARVE_TO_";

/// What the names of a store's variables begin with.
const STORES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Puts together how the second repository is reached.
///
/// # Errors
/// `Usage` for what is not named or not usable.
pub(super) fn access(first: &RepositoryAccess, to: Option<String>, key_file: Option<PathBuf>) -> Result<Access, Usage> {
    let access = File::read(first.config.as_deref())?.copy_access(to, key_file, environment()?)?;
    let is_set = |option: &str| access.store.pairs().iter().any(|(key, _)| key.eq_ignore_ascii_case(option));
    // What both stores share would join in where there is no way to say "none": the token of one account signs nothing
    // for another, and keys win over a file.
    let shared = [("aws_access_key_id", "aws_session_token"), ("aws_shared_credentials_file", "aws_access_key_id")];
    for (given, missing) in shared {
        let variable = missing.to_ascii_uppercase();
        if is_set(given) && !is_set(missing) && env::var_os(&variable).is_some() {
            return Err(Usage(format!(
                "{variable} is the first repository's, and the second's credentials have none: expected the first's under \
                 [store] in the configuration instead"
            )));
        }
    }
    Ok(access)
}

/// Opens the second repository, or makes it where there is none and that is asked for.
///
/// # Errors
/// `Usage` for what is not named or not usable, and the repository's.
pub(super) async fn open(access: &Access, init: bool) -> anyhow::Result<Repository> {
    let store = Store::open(&access.url, &access.store.pairs())?;
    let master = key::of_copy(access)?;
    let seams = Seams::system();
    if init {
        return Ok(Repository::open_or_init(store, &master, seams).await?);
    }
    match Repository::open(store, &master, seams).await {
        Err(Error::NoRepository { url }) => {
            Err(anyhow!("no repository to copy to at {url}: give --init to make one, or check the spelling"))
        }
        opened => Ok(opened?),
    }
}

/// Reads the options of the second store from the environment.
fn environment() -> Result<Vec<(String, String)>, Usage> {
    let mut options = Vec::new();
    for (name, value) in env::vars_os() {
        let Some(option) = name.to_str().and_then(option) else { continue };
        let value = value.into_string().map_err(|_| Usage(format!("{} is not UTF-8", name.display())))?;
        options.push((option, value));
    }
    Ok(options)
}

/// Tells which option of the store a variable is for.
fn option(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    STORES.iter().any(|store| name.starts_with(store)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_second_store_are_told_by_their_prefix() {
        assert_eq!(option("VARVE_TO_AWS_ACCESS_KEY_ID").as_deref(), Some("aws_access_key_id"));
        assert_eq!(option("VARVE_TO_GOOGLE_SERVICE_ACCOUNT").as_deref(), Some("google_service_account"));
        for other in ["AWS_ACCESS_KEY_ID", "VARVE_TO_MASTER_KEY", "VARVE_TO_REPOSITORY", "VARVE_TO_PATH"] {
            assert_eq!(option(other), None);
        }
    }
}

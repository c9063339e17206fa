//! Opening the repository that arguments and configuration name.

use std::{fs, path::Path};

use anyhow::Context as _;
use varve_repository::{Error, Repository, crypto::MasterKey, memory::Memory, seam::Seams, store::Store};

use crate::{
    arguments::RepositoryAccess,
    config::{Access, File},
    failure::Usage,
    key,
};

/// Opens the repository for a command; it must be there.
///
/// # Errors
/// `Usage` for what is not named or not usable, and the repository's.
pub(crate) async fn open(arguments: &RepositoryAccess) -> anyhow::Result<Repository> {
    let access = File::read(arguments.config.as_deref())?.access(arguments)?;
    let store = store(&access)?;
    let master = key::required(&access)?;
    let repository = Repository::open(store, &master, Seams::system()).await?;
    Ok(repository.with_memory(Memory::new(access.memory)))
}

/// Makes a repository; there must be none.
///
/// # Errors
/// `Usage` for what is not named or not usable, and the repository's.
pub(crate) async fn init(access: &Access, generate_key: bool) -> anyhow::Result<Repository> {
    let store = store(access)?;
    let seams = Seams::system();
    let master = match (&access.key_argument, generate_key) {
        (Some(path), true) => generate(path, &seams)?,
        _ => key::required(access)?,
    };
    Ok(Repository::init(store, &master, seams).await?)
}

/// Opens the repository for a driver, and makes it where there is none yet.
///
/// Where no key is named either, the one in the [default file](key::DEFAULT_FILE) is taken; and where there is neither
/// such a file nor a repository, a key is made.
///
/// # Errors
/// `Usage` where a repository is there and no key for it is given, and the repository's.
pub(crate) async fn open_or_init(access: &Access) -> anyhow::Result<Repository> {
    let store = store(access)?;
    let seams = Seams::system();
    let default = Path::new(key::DEFAULT_FILE);
    let master = match key::origin(access)? {
        Some(origin) => origin.read()?,
        None if default.exists() => MasterKey::from_file(default)?,
        None => {
            refuse_existing(&store, &seams).await?;
            generate_default(default, &seams)?
        }
    };
    let opened: anyhow::Result<Repository> = match Repository::open(store.clone(), &master, seams.clone()).await {
        Err(Error::NoRepository { .. }) => {
            let repository = Repository::init(store, &master, seams).await?;
            tracing::info!(url = repository.store().url(), uuid = %repository.uuid(), "made a new repository");
            Ok(repository)
        }
        result => Ok(result?),
    };
    Ok(opened?.with_memory(Memory::new(access.memory)))
}

/// Opens the repository for one of several processes, and makes it where there is none yet; whoever comes first makes it.
///
/// No key is made here: processes that each made their own would not know one another.
///
/// # Errors
/// `Usage` where no key is named, and the repository's.
pub(crate) async fn open_shared(access: &Access) -> anyhow::Result<Repository> {
    let master = key::required(access)?;
    let repository = Repository::open_or_init(store(access)?, &master, Seams::system()).await?;
    Ok(repository.with_memory(Memory::new(access.memory)))
}

fn store(access: &Access) -> Result<Store, Error> {
    Store::open(&access.url, &access.store.pairs())
}

/// Makes sure that no repository is there for which a key would be needed. A key made a moment ago opens none, so what
/// it is refused with tells whether there is one.
async fn refuse_existing(store: &Store, seams: &Seams) -> anyhow::Result<()> {
    let stranger = MasterKey::generate(seams.entropy.as_ref());
    match Repository::open(store.clone(), &stranger, seams.clone()).await {
        Err(Error::NoRepository { .. }) => Ok(()),
        Ok(_) | Err(Error::WrongKey { .. }) => Err(Usage(format!(
            "a repository is at {}, and no master key is given: expected --key-file FILE, VARVE_MASTER_KEY_FILE, \
             VARVE_MASTER_KEY, `key_file` in the configuration or a key in {}",
            store.url(),
            key::DEFAULT_FILE
        ))
        .into()),
        Err(error) => Err(error.into()),
    }
}

fn generate_default(path: &Path, seams: &Seams) -> anyhow::Result<MasterKey> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let master = generate(path, seams)?;
    tracing::warn!(
        key_file = %path.display(),
        "MADE A NEW MASTER KEY: copy it to a safe place now. Without it no snapshot can ever be restored"
    );
    Ok(master)
}

fn generate(path: &Path, seams: &Seams) -> Result<MasterKey, Error> {
    let master = MasterKey::generate(seams.entropy.as_ref());
    master.write_new(path)?;
    Ok(master)
}

//! `varve repository key …`, and `keygen`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;
use varve_repository::{
    Claim, Error, Repository, Slot,
    crypto::{Label, MasterKey, SlotId},
    seam::Seams,
    store::Store,
};

use crate::{
    arguments::{Answer, RepositoryAccess},
    config::File,
    key::{self, Origin},
    output::{listing, properties},
};

/// Say which master keys open the repository.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List the key slots, and which of them the key given opens.
    List {
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Let one more master key open the repository.
    Add {
        #[command(flatten)]
        new: NewKey,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Take a key slot away. The key given must open another one.
    Remove {
        /// The slot's id, as `key list` shows it.
        id: SlotId,
        /// File with the master key that is to remain, where the key given opens the slot that goes.
        #[arg(long, value_name = "FILE")]
        remaining_key_file: Option<PathBuf>,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
    /// Put a new master key in the place of the one given. Asked for again, it goes on where it ended.
    Rotate {
        #[command(flatten)]
        new: NewKey,
        #[command(flatten)]
        access: RepositoryAccess,
        #[command(flatten)]
        answer: Answer,
    },
}

/// The master key that is to open the repository from now on.
#[derive(Args, Debug)]
pub(crate) struct NewKey {
    /// File with the new master key. Without it the environment (VARVE_NEW_MASTER_KEY_FILE, VARVE_NEW_MASTER_KEY) is
    /// asked.
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,

    /// Make the new master key in that file, where there is none yet.
    #[arg(long)]
    generate: bool,

    /// What the key is called, for people. It is not secret: it stands readable in the repository.
    #[arg(long, value_name = "TEXT")]
    label: Option<Label>,
}

impl NewKey {
    fn origin(&self) -> anyhow::Result<Origin> {
        Ok(key::new_origin(self.new_key_file.as_deref())?)
    }

    fn key(&self, seams: &Seams) -> anyhow::Result<MasterKey> {
        let origin = self.origin()?;
        if !self.generate {
            return Ok(origin.read()?);
        }
        let (key, made) = origin.read_or_make(seams.entropy.as_ref())?;
        if let (Origin::File(path), true) = (&origin, made) {
            announce(path);
        }
        Ok(key)
    }
}

/// A key slot, and whether the key given opens it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    slot: Slot,
    opens: bool,
}

/// What was done with a slot.
#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    slot: Slot,
    /// Whether it was done now, or had been before.
    changed: bool,
}

/// What a rotation came to.
#[derive(Serialize)]
struct Rotated {
    #[serde(flatten)]
    slot: Slot,
    /// The slot that made way for it; none where it had done so before.
    removed: Option<Slot>,
}

/// A repository's place, and the key that it is to be opened with.
struct Place {
    store: Store,
    master: MasterKey,
    seams: Seams,
}

impl Place {
    fn new(arguments: &RepositoryAccess) -> anyhow::Result<Self> {
        let access = File::read(arguments.config.as_deref())?.access(arguments)?;
        let store = Store::open(&access.url, &access.store.pairs())?;
        Ok(Self { store, master: key::required(&access)?, seams: Seams::system() })
    }

    async fn open(&self, master: &MasterKey) -> Result<Repository, Error> {
        Repository::open(self.store.clone(), master, self.seams.clone()).await
    }
}

/// Runs the command.
///
/// # Errors
/// `Usage` for a bad argument, and the repository's.
pub(super) async fn run(command: Key) -> anyhow::Result<()> {
    match command {
        Key::List { access, answer } => {
            let place = Place::new(&access)?;
            answer.output.print(&slots(&place).await?, |rows| list(rows))
        }
        Key::Add { new, access, answer } => {
            let place = Place::new(&access)?;
            let repository = place.open(&place.master).await?;
            let added = repository.add_key(&new.key(&place.seams)?, new.label.as_ref()).await?;
            let changed = match added {
                Claim::Created(slot) => Changed { slot, changed: true },
                Claim::AlreadyPresent(slot) => Changed { slot, changed: false },
            };
            answer.output.print(&changed, |changed| {
                properties([(if changed.changed { "added" } else { "there already" }, name(&changed.slot))])
            })
        }
        Key::Remove { id, remaining_key_file, access, answer } => {
            let place = Place::new(&access)?;
            let repository = place.open(&place.master).await?;
            let remaining = match remaining_key_file {
                Some(path) => MasterKey::from_file(&path)?,
                None => place.master,
            };
            let removed = repository.remove_key(id, &remaining).await.map_err(|error| match error {
                Error::LockOut { .. } => anyhow::Error::new(error)
                    .context("--remaining-key-file names the file of a key that opens another slot"),
                error => error.into(),
            })?;
            answer.output.print(&Changed { slot: removed, changed: true }, |changed| {
                properties([("removed", name(&changed.slot))])
            })
        }
        Key::Rotate { new, access, answer } => {
            let place = Place::new(&access)?;
            answer.output.print(&rotate(&place, &new).await?, |rotated| {
                properties([
                    ("opens now", name(&rotated.slot)),
                    ("removed", rotated.removed.as_ref().map_or_else(|| "before".to_owned(), name)),
                ])
            })
        }
    }
}

async fn slots(place: &Place) -> anyhow::Result<Vec<Row>> {
    let repository = place.open(&place.master).await?;
    // Whoever looks is told what is there all the same where only reading is allowed.
    if let Err(error) = repository.settle_identity().await {
        tracing::warn!(%error, "the two copies of `repository` are not made equal");
    }
    let opened = repository.key_slot_of(&place.master).await?.map(|slot| slot.id);
    let slots = repository.key_slots().await?;
    Ok(slots.into_iter().map(|slot| Row { opens: Some(slot.id) == opened, slot }).collect())
}

async fn rotate(place: &Place, new: &NewKey) -> anyhow::Result<Rotated> {
    let (repository, new_key) = match place.open(&place.master).await {
        Ok(repository) => (repository, new.key(&place.seams)?),
        // A rotation that was made already has left the old key without a slot.
        Err(refused @ Error::WrongKey { .. }) => {
            let new_key = match new.origin()?.read() {
                Ok(key) => key,
                Err(_) => return Err(refused.into()),
            };
            match place.open(&new_key).await {
                Ok(repository) => (repository, new_key),
                Err(Error::WrongKey { .. }) => {
                    return Err(refused).context("opening with the old key, and with the new");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let (slot, removed) = repository.rotate_key(&place.master, &new_key, new.label.as_ref()).await?;
    Ok(Rotated { slot, removed })
}

fn list(rows: &[Row]) -> Table {
    let mut table = listing(["ID", "LABEL", "CREATED", "OPENED BY THE KEY GIVEN"]);
    for Row { slot, opens } in rows {
        let label = slot.label.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([
            slot.id.to_string(),
            label,
            slot.created_at.to_string(),
            (if *opens { "yes" } else { "no" }).to_owned(),
        ]);
    }
    table
}

/// Names a slot in an answer.
fn name(slot: &Slot) -> String {
    match &slot.label {
        Some(label) => format!("{} {label}", slot.id),
        None => slot.id.to_string(),
    }
}

/// Makes a new master key in a file.
///
/// # Errors
/// `Local`.
pub(super) fn generate(path: &Path) -> anyhow::Result<()> {
    MasterKey::generate(Seams::system().entropy.as_ref()).write_new(path)?;
    announce(path);
    Ok(())
}

fn announce(path: &Path) {
    eprintln!(
        "a new master key is in {}: without a copy of it in a safe place, nothing can be restored",
        path.display()
    );
}

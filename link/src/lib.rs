//! The agent API between processes: who is who, connections that only the processes of one repository get, and the nodes
//! as a controller reaches them.
//!
//! ```text
//! authority    the certificate authority that every process of a repository derives for itself
//! identity     this process's own certificate, made in memory and renewed while it runs
//! verify       what is asked of the other side's certificate
//! refusal      why a connection came to nothing, in words
//! listen       a node's side: the agent API on TCP
//! dial         a controller's side: one node's connection, kept and made again
//! nodes        all nodes, by name        directory    which nodes there are, and where
//! memory       the same API inside one process, where there is nobody to be kept out
//! ```
//!
//! # Invariants
//!
//! A call reaches an agent only from a process that had the repository's data key when it made its certificate, in the
//! controller's role; a controller sends a call only to a process that had it too, in a node's role and under the name
//! that was dialled. No private key is ever written anywhere, and none lives longer than [`LIFE`].
//!
//! Whoever has a master key, and thereby the data key, can act in both roles: the key is the trust. A node that is broken
//! into has it.

mod authority;
mod dial;
pub mod directory;
mod identity;
pub mod listen;
pub mod memory;
pub mod nodes;
mod refusal;
mod role;
mod verify;

use std::{fmt, sync::Arc, time::Duration};

use varve_repository::{Repository, seam::Seams};

use self::authority::Authority;
pub use self::role::Role;

/// How long a certificate holds. It is renewed at two thirds of that.
pub const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What the processes of one repository know one another by. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Trust {
    authority: Arc<Authority>,
    seams: Seams,
}

impl Trust {
    /// Derives the authority of the repository. Certificates are made and judged by the repository's clock.
    #[must_use]
    pub fn of(repository: &Repository) -> Self {
        let authority = Authority::new(&repository.authority_seed(), repository.uuid());
        Self { authority: Arc::new(authority), seams: repository.seams().clone() }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

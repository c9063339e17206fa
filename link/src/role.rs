//! What a process is to the others, as its certificate says it: one URI in the subject alternative name.

use std::fmt;

use rcgen::ExtendedKeyUsagePurpose;

/// What a process is to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It asks agents.
    Controller,
    /// It serves the agent of the node of that name.
    Node(String),
}

impl Role {
    /// What the certificate may be used for: a controller only ever dials, a node only ever listens.
    pub(crate) fn purpose(&self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Controller => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Node(_) => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("varve:controller"),
            Self::Node(name) => write!(f, "varve:node:{name}"),
        }
    }
}

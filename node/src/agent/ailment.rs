//! What can be the matter with a volume or the pool.

use varve_proto::agent as proto;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It works, but worse than it should, or its snapshots do not reach the repository.
    Degraded,
    /// Its data cannot be reached at present.
    Inaccessible,
    /// Data is lost.
    DataLoss,
}

/// Something that is the matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ailment {
    /// How bad it is.
    pub severity: Severity,
    /// One CamelCase word, for machines.
    pub reason: &'static str,
    /// For people: what is the matter and what to do.
    pub message: String,
}

impl From<Ailment> for proto::Ailment {
    fn from(ailment: Ailment) -> Self {
        let severity = match ailment.severity {
            Severity::Degraded => proto::ailment::Severity::Degraded,
            Severity::Inaccessible => proto::ailment::Severity::Inaccessible,
            Severity::DataLoss => proto::ailment::Severity::DataLoss,
        };
        Self { severity: severity.into(), reason: ailment.reason.into(), message: ailment.message }
    }
}

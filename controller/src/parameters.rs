//! The parameters of classes: StorageClass, VolumeAttributesClass, VolumeSnapshotClass, VolumeGroupSnapshotClass.
//!
//! | key | class | value |
//! | --- | --- | --- |
//! | `compression` | storage, attributes | `none`, or a zstd level from 1 to 19 |
//! | `bandwidth` | storage, attributes | `none`, or bytes a second with K, M, G (powers of 1000) or Ki, Mi, Gi |
//! | `weight` | storage, attributes | the share of the node's offloads beside other volumes': 1 to 100, 10 without it |
//! | `io_bandwidth` | storage, attributes | as `bandwidth`: bytes a second read of the volume's cuts |
//! | `durability` | snapshot, group snapshot | `bucket` (the default) or `node` |
//! | `csi.storage.k8s.io/…` | all | anything: what the sidecars add, kept with the record for people |
//!
//! Any other key is refused: a misspelt one must not be taken for a wish that was granted.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use varve_csi::{name, status};
use varve_proto::agent;
use varve_repository::record::volume::OffloadParameters;

const COMPRESSION: &str = "compression";
const BANDWIDTH: &str = "bandwidth";
const WEIGHT: &str = "weight";
const IO_BANDWIDTH: &str = "io_bandwidth";
const DURABILITY: &str = "durability";
const FOREIGN: &str = "csi.storage.k8s.io/";
/// What the provisioner tells of a volume's claim (external-provisioner, `--extra-create-metadata`).
const CLAIM: [&str; 2] = ["csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace"];

/// What a map of parameters says of the offload. What it does not name stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offload {
    compression: Option<u8>,
    bandwidth: Option<Option<u64>>,
    weight: Option<u8>,
    io_bandwidth: Option<Option<u64>>,
}

impl Offload {
    /// Reads the parameters of a storage or attributes class; `field` names them in messages.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the unknown key or the value that cannot be used.
    pub(crate) fn parse(field: &str, parameters: &HashMap<String, String>) -> Result<Self, Status> {
        Self::read(field, name::map(field, parameters)?)
    }

    /// Reads the parameters that a record keeps; `None` where they are of a version that has others.
    pub(crate) fn recorded(parameters: &BTreeMap<String, String>) -> Option<Self> {
        Self::read("parameters", parameters).ok()
    }

    fn read<'a>(field: &str, parameters: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self, Status> {
        let mut offload = Self::default();
        visit(field, parameters, &[BANDWIDTH, COMPRESSION, IO_BANDWIDTH, WEIGHT], |named, key, value| {
            match key {
                COMPRESSION => offload.compression = Some(compression(named, value)?),
                WEIGHT => offload.weight = Some(weight(named, value)?),
                IO_BANDWIDTH => offload.io_bandwidth = Some(bandwidth(named, value)?),
                _ => offload.bandwidth = Some(bandwidth(named, value)?),
            }
            Ok(())
        })?;
        Ok(offload)
    }

    /// Puts what is named in place of what `current` has.
    pub(crate) fn over(self, current: OffloadParameters) -> OffloadParameters {
        OffloadParameters {
            compression: self.compression.or(current.compression),
            bandwidth: self.bandwidth.unwrap_or(current.bandwidth),
            weight: self.weight.or(current.weight),
            io_bandwidth: self.io_bandwidth.unwrap_or(current.io_bandwidth),
        }
    }

    /// Tells whether everything that is named is so already.
    pub(crate) fn holds_in(self, current: OffloadParameters) -> bool {
        self.over(current) == current
    }
}

/// Where a snapshot is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Durability {
    /// In the repository: ready once the root is committed.
    #[default]
    Bucket,
    /// On the node that made it, alone: ready at the cut.
    Node,
}

impl Durability {
    /// Reads the parameters of a snapshot class or group snapshot class.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the unknown key or the value that cannot be used.
    pub(crate) fn parse(field: &str, parameters: &HashMap<String, String>) -> Result<Self, Status> {
        let mut durability = Self::default();
        visit(field, name::map(field, parameters)?, &[DURABILITY], |named, _, value| {
            durability = match value {
                "bucket" => Self::Bucket,
                "node" => Self::Node,
                _ => return Err(status::invalid(named, value, "bucket or node")),
            };
            Ok(())
        })?;
        Ok(durability)
    }
}

impl From<Durability> for agent::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Bucket => Self::Bucket,
            Durability::Node => Self::Node,
        }
    }
}

/// What a volume's record says of the claim it was made for. A snapshot keeps it, since the record goes with the volume, and
/// who restores in another cluster has nothing else to go by.
pub(crate) fn claim(recorded: &BTreeMap<String, String>) -> HashMap<String, String> {
    let of_claim = recorded.iter().filter(|(key, _)| CLAIM.contains(&key.as_str()));
    of_claim.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns the map in the order of its keys, as records keep it.
pub(crate) fn recorded(parameters: &HashMap<String, String>) -> BTreeMap<String, String> {
    parameters.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Shows every known parameter to `take`, with the name it has in messages.
fn visit<'a>(
    field: &str,
    parameters: impl IntoIterator<Item = (&'a String, &'a String)>,
    known: &[&str],
    mut take: impl FnMut(&str, &str, &str) -> Result<(), Status>,
) -> Result<(), Status> {
    for (key, value) in parameters {
        if known.contains(&key.as_str()) {
            take(&format!("{field}[{key:?}]"), key, value)?;
        } else if !key.starts_with(FOREIGN) {
            return Err(Status::invalid_argument(format!(
                "{field} has the unknown key {key:?}: known are {}, and those that start with {FOREIGN}",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

fn compression(named: &str, value: &str) -> Result<u8, Status> {
    if value == "none" {
        return Ok(0);
    }
    match value.parse() {
        Ok(level @ 1..=19) => Ok(level),
        _ => Err(status::invalid(named, value, "none, or a zstd level from 1 to 19")),
    }
}

fn weight(named: &str, value: &str) -> Result<u8, Status> {
    match value.parse() {
        Ok(weight @ 1..=100) => Ok(weight),
        _ => Err(status::invalid(named, value, "a whole number from 1 to 100")),
    }
}

fn bandwidth(named: &str, value: &str) -> Result<Option<u64>, Status> {
    if value == "none" {
        return Ok(None);
    }
    let refused = || {
        status::invalid(
            named,
            value,
            "none, or bytes a second: a whole number above 0, with K, M, G, Ki, Mi or Gi or without",
        )
    };
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = value.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(refused()),
    };
    match count.parse::<u64>().ok().and_then(|count| count.checked_mul(factor)) {
        Some(bytes) if bytes > 0 => Ok(Some(bytes)),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests;

//! What a CreateVolumeRequest asks for, and whether a volume that exists is that.

use std::collections::BTreeMap;

use tonic::Status;
use varve_csi::{capability::Capability, capacity::CapacityRange, name};
use varve_proto::csi;
use varve_repository::record::volume::{OffloadParameters, Presentation, Source, VolumeRecord};

use super::source::{self, Origin};
use crate::{
    parameters::{self, Offload},
    presentation::{self, DEFAULT_BYTES, GRANULE, Wanted},
    topology::Requirement,
};

/// A validated `CreateVolumeRequest`.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) name: String,
    range: CapacityRange,
    wanted: Wanted,
    pub(super) source: Option<Source>,
    pub(super) requirement: Requirement,
    class: Offload,
    mutable: Offload,
    /// The class parameters as they were given.
    pub(super) parameters: BTreeMap<String, String>,
}

impl Order {
    /// Validates a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, `OUT_OF_RANGE` or `NOT_FOUND`, naming the field.
    pub(super) fn parse(request: &csi::CreateVolumeRequest) -> Result<Self, Status> {
        let name = name::required("name", &request.name)?.to_owned();
        let capabilities = Capability::parse_all("volume_capabilities", &request.volume_capabilities)?;
        Ok(Self {
            name,
            range: CapacityRange::parse("capacity_range", request.capacity_range.as_ref())?,
            wanted: Wanted::of(&capabilities),
            requirement: Requirement::parse("accessibility_requirements", request.accessibility_requirements.as_ref())?,
            class: Offload::parse("parameters", &request.parameters)?,
            mutable: Offload::parse("mutable_parameters", &request.mutable_parameters)?,
            parameters: parameters::recorded(&request.parameters),
            source: source::parse(request.volume_content_source.as_ref())?,
        })
    }

    /// Tells whether the volume that has the name is the one asked for, its place aside (CSI, CreateVolume:
    /// "compatible").
    pub(super) fn compare(&self, record: &VolumeRecord) -> Result<(), Status> {
        let mut differences = Vec::new();
        if !self.range.admits(record.capacity_bytes) {
            differences.push(format!("capacity_range does not admit its {} bytes", record.capacity_bytes));
        }
        if !self.wanted.admits(record.presentation) {
            let is = record.presentation.as_str();
            differences.push(format!("volume_capabilities ask for {}, it is {is}", self.wanted.as_str()));
        }
        if self.source != record.source {
            differences.push("volume_content_source is another".to_owned());
        }
        if Offload::recorded(&record.parameters) != Some(self.class) {
            differences.push("parameters are others".to_owned());
        }
        if !self.mutable.holds_in(record.offload) {
            differences.push("mutable_parameters are others".to_owned());
        }
        if differences.is_empty() { Ok(()) } else { Err(taken(record, &differences.join("; "))) }
    }

    /// Tells whether the volume that has the name is where it is asked for.
    pub(super) fn compare_place(&self, record: &VolumeRecord) -> Result<(), Status> {
        if self.requirement.admits(&record.home_node) {
            return Ok(());
        }
        Err(taken(record, &format!("accessibility_requirements exclude its node {:?}", record.home_node)))
    }

    /// How the new volume's snapshots are offloaded: `mutable_parameters` take precedence (CSI, CreateVolume).
    pub(super) fn offload(&self) -> OffloadParameters {
        self.mutable.over(self.class.over(OffloadParameters::default()))
    }

    /// Settles what the new volume is presented as.
    pub(super) fn presentation(&self, origin: Option<&Origin>) -> Result<Presentation, Status> {
        let source = origin.and_then(|origin| origin.presentation);
        let presentation = self.wanted.settle(source);
        match source {
            Some(source) if source != presentation => Err(Status::invalid_argument(format!(
                "volume_capabilities ask for {}, and volume_content_source is {}: ask for the same",
                self.wanted.as_str(),
                source.as_str()
            ))),
            _ => Ok(presentation),
        }
    }

    /// Settles the new volume's size in bytes.
    pub(super) fn bytes(&self, presentation: Presentation, origin: Option<&Origin>) -> Result<u64, Status> {
        let smallest = presentation::smallest(presentation);
        let Some(origin) = origin else { return self.range.pick(DEFAULT_BYTES.max(smallest), smallest, GRANULE) };
        if self.range.required != 0 && self.range.required.next_multiple_of(GRANULE) < origin.bytes {
            return Err(Status::out_of_range(format!(
                "capacity_range.required_bytes is {}: expected at least the {} bytes of volume_content_source",
                self.range.required, origin.bytes
            )));
        }
        self.range.pick(origin.bytes, smallest.max(origin.bytes), GRANULE)
    }
}

fn taken(record: &VolumeRecord, difference: &str) -> Status {
    Status::already_exists(format!("name is {:?}, which volume {} has: {difference}", record.name, record.id))
}

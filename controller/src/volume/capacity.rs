//! GetCapacity: what the pools can still promise.

use tonic::Status;
use varve_csi::{capability::Capability, capacity::wire};
use varve_proto::csi;
use varve_repository::record::volume::Presentation;

use crate::{
    Controller,
    parameters::Offload,
    placement::room,
    presentation::{Wanted, smallest},
    topology::Requirement,
};

impl Controller {
    /// Sums up the nodes within the topology asked for. The largest volume is the largest that one of them takes at
    /// present, since a scheduler prefers that number to the sum.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, or `UNAVAILABLE` where no node of those asked for answers.
    pub(crate) async fn get_capacity(
        &self,
        request: csi::GetCapacityRequest,
    ) -> Result<csi::GetCapacityResponse, Status> {
        let least = if request.volume_capabilities.is_empty() {
            smallest(Presentation::Block)
        } else {
            let capabilities = Capability::parse_all("volume_capabilities", &request.volume_capabilities)?;
            smallest(Wanted::of(&capabilities).settle(None))
        };
        Offload::parse("parameters", &request.parameters)?;
        let requirement = Requirement::within(request.accessible_topology.as_ref());
        let names = self.fleet().names().await?.into_iter().filter(|node| requirement.admits(node)).collect();
        let pools = self.fleet().ask(names, |agent| async move { agent.pool().await }).await;
        if let (true, Some(doubt)) = (pools.answers.is_empty(), pools.doubt("room for volumes")) {
            return Err(doubt);
        }
        let rooms = || pools.answers.iter().map(|(_, pool)| (room(pool), pool.provisionable_bytes));
        let available = rooms().filter(|(room, _)| *room > 0).fold(0_u64, |sum, (_, bytes)| sum.saturating_add(bytes));
        let largest = rooms().map(|(room, _)| room).max().unwrap_or(0);
        Ok(csi::GetCapacityResponse {
            available_capacity: wire(available),
            maximum_volume_size: Some(wire(largest)),
            minimum_volume_size: Some(wire(least)),
        })
    }
}

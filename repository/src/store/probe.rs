//! To be written.
use super::Store;
use crate::{Result, seam::Seams};
impl Store {
    pub(crate) async fn probe(&self, _seams: &Seams) -> Result<()> {
        Ok(())
    }
}

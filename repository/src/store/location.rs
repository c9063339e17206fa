//! To be written.
use super::Store;
use crate::Result;
pub(super) fn open(_url: &str, _options: &[(String, String)]) -> Result<Store> {
    unimplemented!()
}

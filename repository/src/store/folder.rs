//! To be written.
#[derive(Debug)]
pub(super) struct Folder;
impl Folder {
    pub(super) async fn create(&self) -> object_store::Result<()> {
        Ok(())
    }
}

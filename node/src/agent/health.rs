//! What is the matter with volumes and with the pool, found by looking.

use std::{fs, io};

use super::{Agent, Ailment, Severity};
use crate::{cut::Status, volume::Volume, watermark::Level};

impl Agent {
    /// Finds out what is the matter with a volume; blocks. Empty when it is well.
    #[must_use]
    pub fn ailments(&self, volume: &Volume) -> Vec<Ailment> {
        let mut ailments = self.image_ailments(volume);
        for cut in self.cuts().of_volume(volume.id()) {
            let status = cut.status().borrow().clone();
            match status {
                Status::Failed { message } => ailments.push(Ailment {
                    severity: Severity::Degraded,
                    reason: "BackupFailed",
                    message: format!("snapshot {} does not reach the repository: {message}", cut.id()),
                }),
                Status::Pending { message } if !message.is_empty() => ailments.push(Ailment {
                    severity: Severity::Degraded,
                    reason: "BackupDelayed",
                    message: format!("snapshot {} waits for the repository: {message}", cut.id()),
                }),
                Status::Pending { .. } | Status::Offloading | Status::Ready | Status::Removed => {}
            }
        }
        ailments
    }

    /// Finds out what is the matter with a volume's image, whatever becomes of its snapshots; blocks.
    pub(super) fn image_ailments(&self, volume: &Volume) -> Vec<Ailment> {
        let unreadable = self.unreadable_pool().or_else(|| image_ailment(volume));
        unreadable.into_iter().chain(self.stray_ailment(volume)).collect()
    }

    /// Finds out what is the matter with the pool; blocks. Empty when it is well.
    #[must_use]
    pub fn pool_ailments(&self) -> Vec<Ailment> {
        let mut ailments: Vec<_> = self.unreadable_pool().into_iter().collect();
        if let Ok(usage) = self.pool().usage()
            && self.level(usage) <= Level::Scarce
        {
            ailments.push(Ailment {
                severity: Severity::Degraded,
                reason: "PoolNearlyFull",
                message: format!(
                    "{} of {} bytes are free, so snapshots and new volumes are refused: delete volumes or snapshots, or \
                     grow the pool",
                    usage.free, usage.capacity
                ),
            });
        }
        // Of a volume without a record nobody asks.
        ailments.extend(self.volumes().list().iter().filter_map(|volume| self.stray_ailment(volume)));
        for (folder, reason) in self.volumes().unreadable().iter().chain(self.cuts().unreadable()) {
            ailments.push(Ailment {
                severity: Severity::Degraded,
                reason: "UnreadableRecord",
                message: format!("{} is left alone: {reason}", folder.display()),
            });
        }
        ailments
    }

    fn unreadable_pool(&self) -> Option<Ailment> {
        // Sizes alone would be answered from memory even by a file system that has shut down.
        let read = self.pool().usage().and_then(|_| fs::read_dir(self.pool().volumes_dir()));
        read.err().map(|error| Ailment {
            severity: Severity::Inaccessible,
            reason: "PoolUnreadable",
            message: format!("the pool at {} cannot be read: {error}", self.pool().root().display()),
        })
    }
}

fn image_ailment(volume: &Volume) -> Option<Ailment> {
    let image = volume.image();
    let wanted = volume.record().capacity_bytes;
    let (severity, reason, message) = match fs::metadata(&image) {
        Ok(found) if found.len() >= wanted => return None,
        Ok(found) => (
            Severity::DataLoss,
            "ImageShort",
            format!("the image {} has {} bytes of {wanted}: restore a snapshot", image.display(), found.len()),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (Severity::DataLoss, "ImageMissing", format!("the image {} is gone: restore a snapshot", image.display()))
        }
        Err(error) => (
            Severity::Inaccessible,
            "ImageUnreadable",
            format!("the image {} cannot be read: {error}", image.display()),
        ),
    };
    Some(Ailment { severity, reason, message })
}

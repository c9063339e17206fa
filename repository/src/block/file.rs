//! Plain files as sources and targets of blocks.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::fs::SeekFrom;

use super::{BLOCK_SIZE, BlockRange, BlockSource, BlockTarget, Blocks, Change, ChangeSource};

/// A file that nobody writes to: an image at rest, whose allocated ranges are its changes.
///
/// A file whose length is no whole number of blocks is read as if zeroes followed.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    bytes: u64,
}

impl FileSource {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Finds the next range that may hold data at or after `from`, by `lseek(2)` with `SEEK_DATA` and `SEEK_HOLE`.
    fn next_data(&self, from: Blocks) -> io::Result<Option<BlockRange>> {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(from.bytes())) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(data))?;
        let first = (data / BLOCK_SIZE).max(from.0);
        Ok(Some(BlockRange::new(first, hole.div_ceil(BLOCK_SIZE) - first)))
    }
}

impl BlockSource for FileSource {
    fn capacity(&self) -> Blocks {
        Blocks(self.bytes.div_ceil(BLOCK_SIZE))
    }

    fn read(&self, first: Blocks, buffer: &mut [u8]) -> io::Result<()> {
        let left = self.bytes.saturating_sub(first.bytes());
        let there = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if buffer.len() - there >= usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(&mut buffer[..there], first.bytes())?;
        buffer[there..].fill(0);
        Ok(())
    }
}

impl ChangeSource for FileSource {
    fn changes(&self, from: Blocks) -> io::Result<Box<dyn Iterator<Item = io::Result<Change>> + Send + '_>> {
        let mut position = Some(from);
        Ok(Box::new(std::iter::from_fn(move || {
            // A failure ends the walk.
            let found = self.next_data(position.take()?);
            if let Ok(Some(range)) = found {
                position = Some(range.end());
            }
            found.transpose().map(|range| range.map(Change::Data))
        })))
    }
}

/// A new sparse file being filled.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
}

impl FileTarget {
    /// Creates a file that reads as `capacity` zeroes, of mode 0600: it will hold somebody's data.
    ///
    /// # Errors
    /// `AlreadyExists` where anything is at the path, and the system's.
    pub fn create(path: &Path, capacity: Blocks) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_len(capacity.bytes())?;
        Ok(Self { file })
    }
}

impl BlockTarget for FileTarget {
    fn write(&self, first: Blocks, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, first.bytes())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_is_walked_by_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let target = FileTarget::create(&path, Blocks(1 << 20)).unwrap();
        target.write(Blocks(300), &[1; 8192]).unwrap();
        target.write(Blocks(70_000), &[2; 4096]).unwrap();
        target.sync().unwrap();

        let source = FileSource::open(&path).unwrap();
        assert_eq!(source.capacity(), Blocks(1 << 20));
        let ranges = |from| -> Vec<BlockRange> {
            source.changes(Blocks(from)).unwrap().map(|change| change.unwrap().range()).collect()
        };
        let holds =
            |ranges: &[BlockRange], block| ranges.iter().any(|range| range.first.0 <= block && block < range.end().0);
        let all = ranges(0);
        assert!(holds(&all, 300) && holds(&all, 301) && holds(&all, 70_000) && !holds(&all, 500_000), "{all:?}");
        assert!(!holds(&ranges(302), 300));
        let mut buffer = vec![9; 12_288];
        source.read(Blocks(300), &mut buffer).unwrap();
        assert_eq!((buffer[0], buffer[8191], buffer[8192]), (1, 1, 0));
        assert_eq!(source.read(Blocks(1 << 20), &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_that_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, "precious").unwrap();
        let error = FileTarget::create(&path, Blocks(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_last_block_that_is_not_whole_is_filled_with_zeroes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, [7; 5000]).unwrap();
        let source = FileSource::open(&path).unwrap();
        assert_eq!(source.capacity(), Blocks(2));
        let mut buffer = vec![9; 8192];
        source.read(Blocks::ZERO, &mut buffer).unwrap();
        assert_eq!((buffer[4999], buffer[5000], buffer[8191]), (7, 0, 0));
    }
}

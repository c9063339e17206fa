//! Small JSON records on disk that survive a power cut at any instant.
//!
//! # Crash consistency
//!
//! A record is written beside itself (`<name>.new`), synced, renamed over the old one, and the folder synced: a reader
//! finds the old record or the new one, whole. What is left of an interrupted write is overwritten by the next.
//!
//! Every record is wrapped in `{"version": 1, "record": …}`; a later version is refused rather than misread.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The newest version of the wrapping that this program reads, and the one that it writes.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Wrapping<'a, T> {
    version: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Wrapped<T> {
    record: T,
}

/// Replaces the record at `path`; on return it is durable.
///
/// # Errors
/// The system's. The old record is then still there, or the new one is.
pub fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(&Wrapping { version: VERSION, record })?;
    text.push(b'\n');
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Reads the record at `path`; `None` where there is none.
///
/// # Errors
/// The system's; `InvalidData` for a record that cannot be read, naming it.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display()));
    let Version { version } = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    if version > VERSION {
        return Err(invalid(format!("version {version}, and this program reads up to {VERSION}: use a newer varve")));
    }
    let Wrapped { record } = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(record))
}

/// Removes the record at `path`, durably; whether it is there does not matter.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path.parent().unwrap_or(Path::new("/"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// The system's.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_replaced_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("record.json");
        assert_eq!(read::<Vec<u32>>(&path).expect("readable"), None);
        write(&path, &vec![1, 2, 3]).expect("writable");
        write(&path, &vec![4]).expect("writable");
        assert_eq!(read(&path).expect("readable"), Some(vec![4]));
        remove(&path).expect("removable");
        remove(&path).expect("nothing there is fine");
        assert_eq!(read::<Vec<u32>>(&path).expect("readable"), None);
    }

    #[test]
    fn damaged_and_future_records_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("record.json");
        for (text, reason) in
            [("{\"version\": 1, \"record\": [1", "EOF"), ("{\"version\": 2, \"record\": []}", "newer varve")]
        {
            fs::write(&path, text).expect("writable");
            let error = read::<Vec<u32>>(&path).expect_err("unreadable");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("record.json") && error.to_string().contains(reason), "{error}");
        }
    }
}

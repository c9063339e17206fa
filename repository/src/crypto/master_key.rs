//! The master key: 32 random bytes in a file that only its owner may read.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use super::KEY_LEN;
use crate::{Error, Result, seam::Entropy};

/// Hexadecimal digits of a key.
const DIGITS: usize = 2 * KEY_LEN;

/// Most bytes that a key file may have: the digits and an end of line.
const FILE_LIMIT: usize = DIGITS + 2;

/// The key that a person keeps. It opens a key slot, and with it the repository.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_LEN]>);

impl MasterKey {
    /// Makes a new one.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(&mut *bytes);
        Self(bytes)
    }

    /// Reads it from a file that holds 64 hexadecimal digits. A file that others may read is refused.
    ///
    /// # Errors
    /// `MasterKey`, naming the path and never the content.
    pub fn from_file(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::MasterKey { origin: path.display().to_string(), reason };
        let mut file = fs::File::open(path).map_err(|error| refuse(format!("it cannot be opened: {error}")))?;
        let metadata = file.metadata().map_err(|error| refuse(format!("it cannot be looked at: {error}")))?;
        if !metadata.is_file() {
            return Err(refuse("it is not a regular file".into()));
        }
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(refuse(format!(
                "its mode {mode:04o} lets others at it: `chmod 600` it (a mounted Kubernetes secret: `defaultMode: 0400`)"
            )));
        }
        // One byte more than fits, so that a longer file shows; allocated once, so that no copy is left behind.
        let mut text = Zeroizing::new([0; FILE_LIMIT + 1]);
        let mut length = 0;
        loop {
            match file.read(&mut text[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(refuse(format!("it cannot be read: {error}"))),
            }
        }
        Self::parse(&text[..length]).map_err(|reason| refuse(reason.into()))
    }

    /// Reads it from an environment variable that holds 64 hexadecimal digits.
    ///
    /// # Errors
    /// `MasterKey`, naming the variable and never the content.
    pub fn from_environment(name: &str) -> Result<Self> {
        let refuse =
            |reason: &str| Error::MasterKey { origin: format!("environment variable {name}"), reason: reason.into() };
        let value = std::env::var_os(name).ok_or_else(|| refuse("it is not set"))?;
        let text = Zeroizing::new(value.into_encoded_bytes());
        Self::parse(&text).map_err(refuse)
    }

    /// Writes it as 64 hexadecimal digits into a new file of mode 0600, durably; refuses to replace one.
    ///
    /// # Errors
    /// `Local`.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::Local { what: format!("writing the master key to {}", path.display()), source };
        let mut line = Zeroizing::new([b'\n'; DIGITS + 1]);
        hex::encode_to_slice(self.0.as_slice(), &mut line[..DIGITS]).expect("64 digits have room in 64 bytes");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let written = file.write_all(&*line).and_then(|()| file.sync_all());
        if let Err(source) = written {
            // Half a key is worse than none: a later attempt must find the name free.
            let _ = fs::remove_file(path);
            return Err(failed(source));
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// The key's bytes, for deriving key-encryption keys alone.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
        if digits.len() != DIGITS {
            return Err("it does not hold exactly 64 hexadecimal digits");
        }
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        hex::decode_to_slice(digits, &mut *bytes).map_err(|_| "it holds something else than hexadecimal digits")?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

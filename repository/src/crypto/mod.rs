//! Keys: the master key that a person keeps, and the data key that it seals.

use std::{fmt, path::Path};

use zeroize::Zeroizing;

use crate::Result;

/// The key that a person keeps. It opens a key slot, and with it the repository.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Makes a new one.
    #[must_use]
    pub fn generate(entropy: &dyn crate::seam::Entropy) -> Self {
        let _ = entropy;
        unimplemented!()
    }

    /// Reads it from a file that holds 64 hexadecimal digits. A file that others may read is refused.
    ///
    /// # Errors
    /// `MasterKey`, naming the path and never the content.
    pub fn from_file(path: &Path) -> Result<Self> {
        let _ = path;
        unimplemented!()
    }

    /// Reads it from an environment variable that holds 64 hexadecimal digits.
    ///
    /// # Errors
    /// `MasterKey`, naming the variable and never the content.
    pub fn from_environment(name: &str) -> Result<Self> {
        let _ = name;
        unimplemented!()
    }

    /// Writes it as 64 hexadecimal digits into a new file of mode 0600, durably; refuses to replace one.
    ///
    /// # Errors
    /// `Local`.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        let _ = path;
        unimplemented!()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// The key that a repository's content is sealed under.
pub(crate) struct DataKey(#[expect(dead_code)] Zeroizing<[u8; 32]>);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

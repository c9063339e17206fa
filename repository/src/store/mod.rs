//! The object store that a repository lies on.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::Result;

/// An object store at a prefix, with retries, conditional puts that decide by what is there, and errors sorted.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    url: String,
}

impl Store {
    /// Opens the store that a URL names: `file:///folder`, `s3://bucket/prefix`, `az://container/prefix`,
    /// `gs://bucket/prefix`. Credentials and endpoint come from the environment (`AWS_…`, `AZURE_…`,
    /// `GOOGLE_…`) or from `options`, never from the URL.
    ///
    /// # Errors
    /// `Location`, saying which part of the URL is wrong.
    pub fn open(url: &str, options: &[(String, String)]) -> Result<Self> {
        let _ = (url, options);
        unimplemented!()
    }

    /// Takes a store as it is; for tests that bring their own.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, url: impl Into<String>) -> Self {
        Self { inner, url: url.into() }
    }

    /// The location, fit for messages: it holds no credentials.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

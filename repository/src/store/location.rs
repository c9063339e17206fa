//! From a repository's URL to the store that it names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
    prefix::PrefixStore,
};
use url::Url;

use super::{Store, credentials, folder::Folder};
use crate::{Error, Result};

/// What a location may look like, for messages.
const FORMS: &str = "expected file:///folder, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix";

/// Settings of the HTTP client, each with the end of the name that the environment gives it: the longest that
/// connecting may take; that one request may, a pack's transfer over a slow line included; and that a connection may
/// stay silent while an answer is awaited.
const CLIENT_SETTINGS: [(ClientConfigKey, &str, &str); 3] = [
    (ClientConfigKey::ConnectTimeout, "CONNECT_TIMEOUT", "5 seconds"),
    (ClientConfigKey::Timeout, "TIMEOUT", "300 seconds"),
    (ClientConfigKey::ReadTimeout, "READ_TIMEOUT", "60 seconds"),
];

/// How the client retries what is safe to retry: waits of 0.2 seconds and then of random lengths, half as long again each
/// time on average, up to 5 seconds; some 15 seconds in all, which a server that is started again needs.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            base: 3.0,
        },
        max_retries: 8,
        retry_timeout: Duration::from_secs(60),
    }
}

/// A location's parts.
#[derive(Debug, PartialEq, Eq)]
enum Location {
    Folder(PathBuf),
    Bucket { scheme: Scheme, bucket: String, prefix: Path },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    S3,
    Azure,
    Google,
}

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "az",
            Self::Google => "gs",
        }
    }
}

/// Opens the store that a URL names.
pub(super) fn open(text: &str, options: &[(String, String)]) -> Result<Store> {
    let refuse = |reason: String| Error::Location { url: without_credentials(text), reason };
    let location = parse(text).map_err(refuse)?;
    let url = location.to_string();
    match location {
        Location::Folder(path) => {
            if let Some((key, _)) = options.first() {
                return Err(refuse(format!("option {key:?} means nothing to a folder")));
            }
            let folder = Arc::new(Folder::new(path));
            let inner = Arc::clone(&folder) as Arc<dyn ObjectStore>;
            Ok(Store { folder: Some(folder), ..Store::new(inner, url) })
        }
        Location::Bucket { scheme, bucket, prefix } => {
            let inner = connect(scheme, &bucket, options).map_err(refuse)?;
            let inner = if prefix.as_ref().is_empty() { inner } else { Arc::new(PrefixStore::new(inner, prefix)) };
            Ok(Store::new(inner, url))
        }
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file://{}", path.display()),
            Self::Bucket { scheme, bucket, prefix } if prefix.as_ref().is_empty() => {
                write!(f, "{}://{bucket}", scheme.as_str())
            }
            Self::Bucket { scheme, bucket, prefix } => write!(f, "{}://{bucket}/{prefix}", scheme.as_str()),
        }
    }
}

fn parse(text: &str) -> Result<Location, String> {
    let Some((scheme, rest)) = split_scheme(text) else {
        let shown = without_credentials(text);
        let hint = match shown.split_once(":/") {
            Some(("file", rest)) => format!(", perhaps file:///{rest}"),
            Some((scheme, rest)) => format!(", perhaps {scheme}://{rest}"),
            None if shown.starts_with('/') => format!(", perhaps file://{shown}"),
            None => String::new(),
        };
        return Err(format!("it has no scheme followed by \"://\"; {FORMS}{hint}"));
    };
    let scheme = match scheme {
        "file" => return parse_folder(rest),
        "s3" => Scheme::S3,
        "az" => Scheme::Azure,
        "gs" => Scheme::Google,
        other => return Err(format!("scheme {other:?} is not supported; {FORMS}")),
    };
    let url = Url::parse(text).map_err(|error| format!("it is not a URL ({error}); {FORMS}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong in it: give them as options or in the environment".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it ends in a query or fragment: settings are given as options or in the environment".into());
    }
    // An empty port counts: what follows it may be the rest of a secret key.
    if rest.split('/').next().is_some_and(|authority| authority.contains(':')) {
        return Err("it names a port: a bucket has none, and an endpoint is given as an option".into());
    }
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty());
    let bucket = bucket.ok_or_else(|| format!("it names no bucket; {FORMS}"))?.to_owned();
    let prefix = Path::from_url_path(url.path()).map_err(|error| format!("its prefix is not usable: {error}"))?;
    Ok(Location::Bucket { scheme, bucket, prefix })
}

fn parse_folder(rest: &str) -> Result<Location, String> {
    if !rest.starts_with('/') {
        return Err(format!(
            "a folder is named by its absolute path, with three slashes: file:///{}",
            rest.trim_start_matches("./")
        ));
    }
    let url = Url::parse(&format!("file://{rest}")).map_err(|error| format!("it is not a URL: {error}"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it ends in a query or fragment: write ? as %3F and # as %23 in a folder's name".into());
    }
    let path = url.to_file_path().map_err(|()| "its path cannot be read".to_owned())?;
    if path.parent().is_none() {
        return Err("the root of the file system is no place for a repository".into());
    }
    Ok(Location::Folder(path))
}

/// Parts a text behind its scheme; what has other than a scheme's characters before `://` is no scheme.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    is_scheme.then_some((scheme, rest))
}

/// Removes what may be a credential from a text that is to be shown: everything up to an `@`, and any query.
fn without_credentials(text: &str) -> String {
    let text = text.split_once('?').map_or(text, |(location, _)| location);
    match (split_scheme(text), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        (None, Some((_, rest))) => format!("…@{rest}"),
        (_, None) => text.to_owned(),
    }
}

/// Sets a builder up: our own settings, where the environment has none; then the options.
macro_rules! configure {
    ($builder:expr, $key:ty, $client:path, $prefix:literal, $options:expr) => {{
        let mut builder = $builder.with_retry(retries());
        for (key, name, value) in CLIENT_SETTINGS {
            if std::env::var_os(format!("{}_{name}", $prefix)).is_none() {
                builder = builder.with_config($client(key), value);
            }
        }
        for (key, value) in $options {
            let parsed: $key =
                key.to_ascii_lowercase().parse().map_err(|_| format!("there is no option {key:?} for this store"))?;
            builder = builder.with_config(parsed, value);
        }
        builder
    }};
}

/// Whether what is sent to an S3 endpoint is sent by TLS, which no endpoint's name means too.
fn is_encrypted(endpoint: Option<&str>) -> bool {
    endpoint.is_none_or(|endpoint| endpoint.trim_start().to_ascii_lowercase().starts_with("https://"))
}

/// Whether the environment or the options say if payloads are signed. Where neither does, they are not over TLS, which
/// protects them already: signing hashes each pack once more, and everything that is read is verified in any case.
fn is_set_unsigned(options: &[&(String, String)]) -> bool {
    let is_key = |key: &str| matches!(key.to_ascii_lowercase().parse(), Ok(AmazonS3ConfigKey::UnsignedPayload));
    std::env::var_os("AWS_UNSIGNED_PAYLOAD").is_some() || options.iter().any(|(key, _)| is_key(key))
}

fn connect(scheme: Scheme, bucket: &str, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, String> {
    // The builders' errors name keys and never values, but for what could not be parsed as a number or a URL.
    let unusable = |error: object_store::Error| format!("the store's settings are not usable: {error}");
    Ok(match scheme {
        Scheme::S3 => {
            let mut ours = credentials::Options::default();
            let options = options.iter().filter(|(key, value)| !ours.take(key, value)).collect::<Vec<_>>();
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
            let builder =
                configure!(builder, AmazonS3ConfigKey, AmazonS3ConfigKey::Client, "AWS", options.iter().copied());
            let builder = match (builder.get_config_value(&AmazonS3ConfigKey::Endpoint), is_set_unsigned(&options)) {
                (endpoint, false) if is_encrypted(endpoint.as_deref()) => builder.with_unsigned_payload(true),
                _ => builder,
            };
            let builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch);
            Arc::new(
                credentials::provide(builder, ours.shared_file()).and_then(AmazonS3Builder::build).map_err(unusable)?,
            )
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            let builder = configure!(builder, AzureConfigKey, AzureConfigKey::Client, "AZURE", options);
            Arc::new(builder.build().map_err(unusable)?)
        }
        Scheme::Google => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            let builder = configure!(builder, GoogleConfigKey, GoogleConfigKey::Client, "GOOGLE", options);
            Arc::new(builder.build().map_err(unusable)?)
        }
    })
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

//! Where the credentials of an S3 store come from, and what is said where there are none.
//!
//! In this order: keys in the options or the environment; a web identity; a shared credentials file; a container's
//! credentials; the instance's. The client knows all of them but the file, which is [`SharedFile`].
//!
//! Web identities, containers and instances renew what they give before it expires. A file is read anew for each
//! request, so that whoever renews it, a Kubernetes secret for one, need tell nobody. Keys in the environment stay as
//! they were when the program started.

use std::{env, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{
    BackoffConfig, ClientConfigKey, CredentialProvider, Error as StoreError, Result as StoreResult, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential, AwsCredentialProvider},
};

use super::failure;
use crate::ErrorKind;

/// What names the file, as an option in lower case.
const FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";

/// What names the profile in it.
const PROFILE: &str = "AWS_PROFILE";

/// What to do where there are none.
const NONE: &str = "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or let \
                    AWS_SHARED_CREDENTIALS_FILE name a file that holds them; nor has this machine an instance metadata \
                    service that gives any";

/// Credentials that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Unusable {
    /// Whether waiting may help.
    pub kind: ErrorKind,
    /// What is wrong and what to do; no secret is in it.
    reason: String,
}

impl From<Unusable> for StoreError {
    fn from(unusable: Unusable) -> Self {
        Self::Generic { store: "S3", source: Box::new(unusable) }
    }
}

/// The options that are not the client's but this module's.
#[derive(Debug, Default)]
pub(super) struct Options {
    file: Option<PathBuf>,
    profile: Option<String>,
}

impl Options {
    /// Takes an option if it is one of these.
    pub(super) fn take(&mut self, key: &str, value: &str) -> bool {
        match key.to_ascii_uppercase().as_str() {
            FILE => self.file = Some(value.into()),
            PROFILE => self.profile = Some(value.to_owned()),
            _ => return false,
        }
        true
    }

    /// Returns the file that counts, where one is named or where people keep one.
    pub(super) fn shared_file(self) -> Option<SharedFile> {
        let at_home = || env::home_dir().map(|home| home.join(".aws/credentials")).filter(|path| path.is_file());
        let path = self.file.or_else(|| env::var_os(FILE).map(PathBuf::from)).or_else(at_home)?;
        let profile = self.profile.or_else(|| env::var(PROFILE).ok()).unwrap_or_else(|| "default".into());
        Some(SharedFile { path, profile })
    }
}

/// Gives a builder the credentials that count, a shared file being one of the places.
///
/// # Errors
/// The builder's, for settings that are not usable.
pub(super) fn provide(builder: AmazonS3Builder, file: Option<SharedFile>) -> StoreResult<AmazonS3Builder> {
    let is_set = |key| builder.get_config_value(&key).is_some();
    let asks = !is_set(Key::SkipSignature) || builder.get_config_value(&Key::SkipSignature).as_deref() == Some("false");
    if !asks || is_set(Key::AccessKeyId) || is_set(Key::SecretAccessKey) {
        return Ok(builder);
    }
    let origin = if is_set(Key::WebIdentityTokenFile) && is_set(Key::RoleArn) {
        Origin::WebIdentity
    } else if let Some(file) = file {
        return Ok(builder.with_credentials(Arc::new(file)));
    } else if is_set(Key::ContainerCredentialsRelativeUri) || is_set(Key::ContainerCredentialsFullUri) {
        Origin::Container
    } else {
        Origin::Instance
    };
    // The client's own provider, with less patience: the request that needs it is tried again as a whole.
    let asking = builder
        .clone()
        .with_config(Key::Client(ClientConfigKey::Timeout), "5 seconds")
        .with_config(Key::Client(ClientConfigKey::ConnectTimeout), "2 seconds")
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            max_retries: 2,
            retry_timeout: Duration::from_secs(10),
        });
    let inner = Arc::clone(asking.build()?.credentials());
    Ok(builder.with_credentials(Arc::new(Explained { inner, origin })))
}

/// Who gives credentials that the client knows to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    WebIdentity,
    Container,
    Instance,
}

/// The client's own provider, whose failures say what they are.
#[derive(Debug)]
struct Explained {
    inner: AwsCredentialProvider,
    origin: Origin,
}

#[async_trait]
impl CredentialProvider for Explained {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> StoreResult<Arc<AwsCredential>> {
        self.inner.get_credential().await.map_err(|error| self.origin.explain(&error).into())
    }
}

impl Origin {
    fn explain(self, error: &StoreError) -> Unusable {
        let (kind, cause) = (failure::kind(error), failure::Cause::of(error));
        let whose = match self {
            // Who is asked by default, and most often is not there at all.
            Self::Instance if !failure::is_answered(error) => {
                return Unusable { kind: ErrorKind::Denied, reason: NONE.into() };
            }
            Self::Instance => "the instance metadata service",
            Self::WebIdentity => "the web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)",
            Self::Container => "the container's credentials (AWS_CONTAINER_CREDENTIALS_…)",
        };
        let kind = if kind == ErrorKind::Unavailable { kind } else { ErrorKind::Denied };
        Unusable { kind, reason: format!("{whose} gave no credentials: {cause}") }
    }
}

/// A file of profiles, each with its keys, as the AWS programs keep one.
///
/// ```text
/// [default]
/// aws_access_key_id = …
/// aws_secret_access_key = …
/// aws_session_token = …
/// ```
pub(super) struct SharedFile {
    path: PathBuf,
    profile: String,
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedFile").field("path", &self.path).field("profile", &self.profile).finish()
    }
}

#[async_trait]
impl CredentialProvider for SharedFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> StoreResult<Arc<AwsCredential>> {
        let unusable = |reason: String| {
            let reason = format!("the credentials in {} are not usable: {reason}", self.path.display());
            Unusable { kind: ErrorKind::Denied, reason }
        };
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| unusable(error.to_string()))?;
        Ok(Arc::new(parse(&text, &self.profile).map_err(unusable)?))
    }
}

/// Finds a profile's keys. Lines that are not understood are passed over, and never shown.
fn parse(text: &str, profile: &str) -> Result<AwsCredential, String> {
    let (mut within, mut found) = (false, false);
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            within = name.trim() == profile;
            found |= within;
        } else if let Some((key, value)) = line.split_once('=')
            && within
        {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match key.trim() {
                "aws_access_key_id" => key_id = value,
                "aws_secret_access_key" => secret_key = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    if !found {
        return Err(format!("there is no profile [{profile}]; {PROFILE} names another"));
    }
    let key_id = key_id.ok_or_else(|| format!("profile [{profile}] has no aws_access_key_id"))?;
    let secret_key = secret_key.ok_or_else(|| format!("profile [{profile}] has no aws_secret_access_key"))?;
    Ok(AwsCredential { key_id, secret_key, token })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures::TryStreamExt;

    use super::*;
    use crate::store::Store;

    const TEXT: &str = "# people's\n[default]\naws_access_key_id = one\naws_secret_access_key=secret one\nregion = x\n\
                        [other]\naws_access_key_id=two\naws_secret_access_key=secret=two\naws_session_token = t\n[bare]";

    #[test]
    fn a_profile_is_found_among_others() {
        let one = parse(TEXT, "default").unwrap();
        assert_eq!((one.key_id.as_str(), one.secret_key.as_str(), one.token), ("one", "secret one", None));
        let two = parse(TEXT, "other").unwrap();
        assert_eq!((two.key_id.as_str(), two.secret_key.as_str()), ("two", "secret=two"));
        assert_eq!(two.token.as_deref(), Some("t"));
    }

    #[test]
    fn invariant_7_what_is_missing_is_named_and_no_secret_is() {
        for (profile, expected) in [("none", "no profile [none]"), ("bare", "no aws_access_key_id")] {
            let reason = parse(TEXT, profile).map(|_| ()).unwrap_err();
            assert!(reason.contains(expected) && !reason.contains("secret one"), "{reason}");
        }
        let file = SharedFile { path: "/a".into(), profile: "b".into() };
        assert_eq!(format!("{file:?}"), "SharedFile { path: \"/a\", profile: \"b\" }");
    }

    #[tokio::test]
    async fn none_at_all_are_said_and_not_waited_for() {
        let builder = AmazonS3Builder::new().with_bucket_name("bucket").with_allow_http(true);
        // Nothing listens at port 1.
        let builder = builder.with_endpoint("http://127.0.0.1:1").with_metadata_endpoint("http://127.0.0.1:1");
        let store = Store::new(Arc::new(provide(builder, None).unwrap().build().unwrap()), "s3://bucket");
        let started = Instant::now();
        for error in [
            store.get("repository").await.unwrap_err(),
            store.put_new("packs/a", "x".into()).await.unwrap_err(),
            store.delete("packs/a").await.unwrap_err(),
            store.list("packs/").try_collect::<Vec<_>>().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), NONE);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn whoever_does_not_answer_may_do_so_later_and_whoever_refuses_does_not() {
        let failed = |text: &str| StoreError::Generic { store: "S3", source: text.into() };
        let refused = failed("Server returned non-2xx status code: 403 Forbidden: <Code>AccessDenied</Code>");
        for (origin, error, kind) in [
            (Origin::WebIdentity, failed("connection refused"), ErrorKind::Unavailable),
            (Origin::WebIdentity, refused, ErrorKind::Denied),
            (Origin::Container, failed("no such file"), ErrorKind::Unavailable),
            (Origin::Instance, failed("connection refused"), ErrorKind::Denied),
            (Origin::Instance, failed("Server returned non-2xx status code: 404 Not Found: "), ErrorKind::Denied),
            (Origin::Instance, failed("Server returned non-2xx status code: 503 Busy: "), ErrorKind::Unavailable),
        ] {
            assert_eq!(origin.explain(&error).kind, kind, "{origin:?} {error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let file = SharedFile { path: "/nowhere/credentials".into(), profile: "default".into() };
        let error = file.get_credential().await.map(|_| ()).unwrap_err();
        assert_eq!(failure::kind(&error), ErrorKind::Denied);
        let cause = failure::Cause::of(&error).to_string();
        assert!(cause.contains("/nowhere/credentials") && cause.contains("No such file"), "{cause}");
    }
}

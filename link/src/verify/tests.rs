//! What is shown to a listener by callers who have no business there.

use std::{io, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use varve_repository::{
    Repository,
    crypto::MasterKey,
    seam::{Clock, Seams, System},
    store::Store,
};

use super::*;
use crate::{LIFE, authority::tests::self_signed, refusal::explain};

/// A clock that is so far behind the machine's.
struct Behind(SignedDuration);

impl Clock for Behind {
    fn now(&self) -> Timestamp {
        System.now() - self.0
    }
}

/// Shows one certificate, or none.
#[derive(Debug)]
struct Shown(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

async fn trust() -> Trust {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display()), &[]).unwrap();
    Trust::of(&Repository::init(store, &MasterKey::generate(&System), Seams::system()).await.unwrap())
}

/// A certificate that was made so long ago.
fn made(trust: &Trust, role: &Role, ago: Duration) -> Shown {
    let behind = Behind(SignedDuration::try_from(ago).unwrap());
    let seams = Seams { clock: Arc::new(behind), ..Seams::system() };
    Shown(Some(Arc::new(trust.authority.issue(role, LIFE, &seams).unwrap().key)))
}

/// Has a caller that takes the node for the right one show something to it; what either side says.
async fn show(trust: &Trust, shown: Shown) -> (Result<(), String>, Result<(), String>) {
    let identity = Arc::new(Identity::new(trust, Role::Node("a".to_owned())));
    let listening = TlsAcceptor::from(Arc::new(listening(trust, identity).unwrap()));
    let unused = Arc::new(Identity::new(trust, Role::Controller));
    let mut config = dialling(trust, unused, "a").unwrap();
    config.client_auth_cert_resolver = Arc::new(shown);
    let dialling = TlsConnector::from(Arc::new(config));

    let (near, far) = duplex(64 * 1024);
    let listener = async {
        let mut connection = listening.accept(far).await?;
        connection.write_all(b"x").await?;
        connection.flush().await
    };
    let dialler = async {
        let mut connection = dialling.connect("agent.invalid".try_into().unwrap(), near).await?;
        connection.read_u8().await.map(drop)
    };
    let (heard, said): (io::Result<()>, io::Result<()>) = tokio::join!(listener, dialler);
    (heard.map_err(|error| explain(&error)), said.map_err(|error| explain(&error)))
}

#[tokio::test]
async fn a_controller_of_the_repository_is_taken() {
    let trust = trust().await;
    for ago in [Duration::ZERO, LIFE - Duration::from_secs(60)] {
        assert_eq!(show(&trust, made(&trust, &Role::Controller, ago)).await, (Ok(()), Ok(())));
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let trust = trust().await;
    let (heard, said) = show(&trust, made(&trust, &Role::Controller, LIFE + Duration::from_secs(60))).await;
    assert!(heard.unwrap_err().starts_with("the other side's certificate expired 6"));
    assert!(said.unwrap_err().contains("refused our certificate as expired"));
}

#[tokio::test]
async fn another_authority_s_certificate_is_refused() {
    let (trust, other) = (trust().await, trust().await);
    let (heard, said) = show(&trust, made(&other, &Role::Controller, Duration::ZERO)).await;
    assert!(heard.unwrap_err().contains("is not of this repository"));
    assert!(said.unwrap_err().contains("it has another repository's key"));
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_refused() {
    let trust = trust().await;
    for authority in [false, true] {
        let (heard, said) = show(&trust, Shown(Some(Arc::new(self_signed(authority))))).await;
        assert!(heard.clone().unwrap_err().contains("is not of this repository"), "{heard:?}");
        assert!(said.unwrap_err().contains("it has another repository's key"));
    }
}

#[tokio::test]
async fn a_node_is_no_controller() {
    let trust = trust().await;
    let (heard, said) = show(&trust, made(&trust, &Role::Node("a".to_owned()), Duration::ZERO)).await;
    assert!(heard.unwrap_err().contains("for another role"));
    assert!(said.unwrap_err().contains("refused us"));
}

#[tokio::test]
async fn who_shows_nothing_is_refused() {
    let trust = trust().await;
    let (heard, said) = show(&trust, Shown(None)).await;
    assert!(heard.unwrap_err().contains("showed no certificate"));
    assert!(said.unwrap_err().contains("asks for a certificate"));
}

//! Buckets under object lock, on a real S3 server: nothing that is locked is lost, whoever deletes it, and the repository
//! works in such a bucket as in any other.
//!
//! The server is versitygw 1.8.0, which differs from S3 in two ways. It takes object lock without versioning, and then
//! refuses deletions that S3 would turn into delete markers. And it refuses to create an object where a delete marker
//! stands, which S3 does not.

mod gateway;
mod image;

use std::time::Duration;

use gateway::Gateway;
use image::{Image, Seeded, assert_same, base, id, master, offload, restore, seams};
use object_store::{
    ClientOptions,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpConnector, HttpRequest, ReqwestConnector},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use varve_repository::{
    Claim, Deletion, Error, ErrorKind, Repository, collect,
    offload::Against,
    progress::Progress,
    record::volume::{OffloadParameters, Presentation, VolumeRecord},
    store::Store,
};

const BUCKET: &str = "/backups";

/// Locks everything for a day.
const RULE: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";

/// What the store wants to be told with it: its SHA-256, in base64.
const RULE_SHA256: &str = "b156tXDDyAwzmV+oC2aoDSpBkIjF+Y/NsfMEiz6jz4Q=";

/// A server and what reaches it as its owner would, beside the repository.
struct Scene {
    gateway: Gateway,
    _folders: [tempfile::TempDir; 2],
}

impl Scene {
    /// Starts a server whose bucket takes object lock, with versions or without.
    async fn new(versions: bool) -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let versioning = ["--versioning-dir", folders[1].path().to_str().unwrap()];
        let gateway = Gateway::start_on(folders[0].path(), if versions { &versioning } else { &[] });
        let scene = Self { gateway, _folders: folders };
        scene.succeed("PUT", BUCKET, &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
        scene
    }

    /// Locks what is put from now on for a day, against everybody.
    async fn retain(&self) {
        let headers = [("x-amz-checksum-sha256", RULE_SHA256)];
        self.succeed("PUT", &format!("{BUCKET}?object-lock"), &headers, RULE).await;
    }

    fn store(&self) -> Store {
        Store::open(&self.gateway.url("prefix"), &self.gateway.options()).unwrap()
    }

    /// Sends a request; returns the status and the body.
    async fn request(&self, method: &str, path: &str, headers: &[(&'static str, &str)], body: &str) -> (u16, String) {
        let options = self.gateway.options();
        let option = |name: &str| options.iter().find(|(key, _)| key == name).unwrap().1.clone();
        let credential = AwsCredential {
            key_id: option("aws_access_key_id"),
            secret_key: option("aws_secret_access_key"),
            token: None,
        };
        let mut request = HttpRequest::new(body.to_owned().into());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = format!("http://{}{path}", self.gateway.address()).parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).unwrap();
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let response = client.execute(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().bytes().await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn succeed(&self, method: &str, path: &str, headers: &[(&'static str, &str)], body: &str) -> String {
        let (status, answer) = self.request(method, path, headers, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Keys and version ids of everything in the bucket: of versions, or of delete markers.
    async fn versions(&self, what: &str) -> Vec<(String, String)> {
        let answer = self.succeed("GET", &format!("{BUCKET}?versions"), &[], "").await;
        assert!(answer.contains("<IsTruncated>false<"), "{answer}");
        let field = |part: &str, name: &str| {
            let (_, rest) = part.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        answer.split(&format!("<{what}>")).skip(1).map(|part| (field(part, "Key"), field(part, "VersionId"))).collect()
    }
}

async fn collect(repository: &Repository) -> collect::Report {
    // `repacking` is created again by each repacker, where this server keeps its delete marker against it.
    let options = collect::Options { repack: false, ..collect::Options::default() };
    repository.collect(&options, Progress::default(), CancellationToken::new()).await.unwrap()
}

fn deleted(report: &collect::Report, kind: collect::Kind) -> u64 {
    report.deleted.iter().filter(|garbage| garbage.kind == kind).map(|garbage| garbage.amount.objects).sum()
}

#[tokio::test]
async fn a_repository_lives_in_a_locked_bucket_and_outlives_a_thief() {
    let scene = Scene::new(true).await;
    scene.retain().await;
    let repository = Repository::init(scene.store(), &master(), seams(1)).await.unwrap();
    let mut image = Image::new(200);
    image.write_noise(0, 100, &Seeded::new(1));
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    image.write_noise(0, 150, &Seeded::new(2));
    let cut = image.cut();
    let second = offload(&repository, "second", &cut, base(&first)).await.unwrap();

    // A deletion puts a version above the locked one, and what is collected gets a delete marker.
    let deletion = repository.delete_snapshot(id(&first), "deleted").await.unwrap();
    assert!(matches!(deletion, Deletion::Deleted(_)), "{deletion:?}");
    let report = collect(&repository).await;
    assert_eq!((report.locked.objects, deleted(&report, collect::Kind::Pack)), (0, 1), "{report:?}");
    assert_eq!(deleted(&collect(&repository).await, collect::Kind::Pack), 0, "what was deleted is not listed");
    assert_same(&restore(&repository, &second).await.unwrap(), &cut.bytes, "after a collection");
    let root = format!("prefix/snapshots/{}", id(&first));
    let versions = scene.versions("Version").await;
    assert_eq!(versions.iter().filter(|(key, _)| *key == root).count(), 2, "the root, and the tombstone above it");

    // Whoever has the bucket's credentials can hide everything, and destroy nothing.
    let markers = scene.versions("DeleteMarker").await;
    let standing: Vec<&String> = versions.iter().map(|(key, _)| key).collect();
    for key in standing.iter().filter(|key| markers.iter().all(|(marked, _)| marked != **key)) {
        scene.succeed("DELETE", &format!("{BUCKET}/{key}"), &[], "").await;
    }
    for (key, version) in &versions {
        let (status, answer) = scene.request("DELETE", &format!("{BUCKET}/{key}?versionId={version}"), &[], "").await;
        assert!(status == 403 && answer.contains("AccessDenied"), "{key}: {status} {answer}");
    }
    let error = Repository::open(scene.store(), &master(), seams(2)).await.unwrap_err();
    assert!(matches!(error, Error::NoRepository { .. }), "{error:?}");

    // The owner takes the thief's delete markers away, and everything is as it was.
    for (key, version) in scene.versions("DeleteMarker").await {
        if !markers.contains(&(key.clone(), version.clone())) {
            scene.succeed("DELETE", &format!("{BUCKET}/{key}?versionId={version}"), &[], "").await;
        }
    }
    let repository = Repository::open(scene.store(), &master(), seams(2)).await.unwrap();
    assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    assert_same(&restore(&repository, &second).await.unwrap(), &cut.bytes, "after the theft");
    let third = offload(&repository, "third", &cut, base(&second)).await.unwrap();
    assert_same(&restore(&repository, &third).await.unwrap(), &cut.bytes, "and it goes on");
}

#[tokio::test]
async fn a_name_is_used_again_after_a_delete_marker_or_refused_for_now() {
    let scene = Scene::new(true).await;
    let repository = Repository::init(scene.store(), &master(), seams(1)).await.unwrap();
    let volume = |incarnation| VolumeRecord {
        id: repository.volume_id("pvc"),
        name: "pvc".into(),
        incarnation: Uuid::from_u128(incarnation),
        capacity_bytes: 1 << 20,
        presentation: Presentation::Block,
        home_node: "node".into(),
        source: None,
        offload: OffloadParameters::default(),
        parameters: Default::default(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        complete: true,
        published: None,
    };
    let claimed = repository.claim_volume(volume(1)).await.unwrap();
    assert!(matches!(claimed, Claim::Created(_)), "{claimed:?}");
    repository.remove_volume(repository.volume_id("pvc")).await.unwrap();
    assert!(repository.volume(repository.volume_id("pvc")).await.unwrap().is_none());
    let again = tokio::time::timeout(Duration::from_secs(120), repository.claim_volume(volume(2))).await.unwrap();
    match again {
        Ok(Claim::Created(record)) => assert_eq!(record.incarnation, Uuid::from_u128(2)),
        // Not taken for somebody else's record, nor for a failure that is final.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        Ok(other) => panic!("{other:?}"),
    }
    // The reserve needs no creation, and comes back.
    scene.succeed("DELETE", &format!("{BUCKET}/prefix/reserve"), &[], "").await;
    assert!(repository.restore_reserve().await.unwrap());
    scene.succeed("HEAD", &format!("{BUCKET}/prefix/reserve"), &[], "").await;
}

#[tokio::test]
async fn what_the_store_refuses_to_delete_is_said_and_counted_and_hurts_nothing() {
    let scene = Scene::new(false).await;
    let repository = Repository::init(scene.store(), &master(), seams(1)).await.unwrap();
    let mut image = Image::new(200);
    image.write_noise(0, 100, &Seeded::new(1));
    let first = offload(&repository, "first", &image.cut(), Against::Nothing).await.unwrap();
    // An unlocked snapshot of before is deleted as ever.
    assert!(matches!(repository.delete_snapshot(id(&first), "deleted").await.unwrap(), Deletion::Deleted(_)));
    scene.retain().await;
    image.write_noise(0, 150, &Seeded::new(2));
    let cut = image.cut();
    let second = offload(&repository, "second", &cut, Against::Nothing).await.unwrap();
    let garbage = format!("{BUCKET}/prefix/packs/{}", "0".repeat(32));
    scene.succeed("PUT", &garbage, &[], "what a writer left behind").await;

    let error = repository.delete_snapshot(id(&second), "deleted").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("AccessDenied") && said.contains("retention"), "{said}");

    for _ in 0..2 {
        let report = collect(&repository).await;
        // The garbage, and the intent of the second snapshot.
        assert!(report.locked.objects >= 1, "{report:?}");
        assert_same(&restore(&repository, &second).await.unwrap(), &cut.bytes, "after a collection");
    }
    scene.succeed("HEAD", &garbage, &[], "").await;
}

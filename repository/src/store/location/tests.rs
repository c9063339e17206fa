use super::*;

fn bucket(scheme: Scheme, bucket: &str, prefix: &str) -> Location {
    Location::Bucket { scheme, bucket: bucket.into(), prefix: Path::from(prefix) }
}

#[test]
fn locations_are_read() {
    for (text, expected, shown) in [
        ("file:///var/backups", Location::Folder("/var/backups".into()), "file:///var/backups"),
        ("file:///var/back%20ups/", Location::Folder("/var/back ups/".into()), "file:///var/back ups/"),
        ("s3://bucket", bucket(Scheme::S3, "bucket", ""), "s3://bucket"),
        ("s3://bucket/", bucket(Scheme::S3, "bucket", ""), "s3://bucket"),
        ("s3://bucket/a/b/", bucket(Scheme::S3, "bucket", "a/b"), "s3://bucket/a/b"),
        ("s3://my.bucket-1/a", bucket(Scheme::S3, "my.bucket-1", "a"), "s3://my.bucket-1/a"),
        ("az://container/a", bucket(Scheme::Azure, "container", "a"), "az://container/a"),
        ("gs://bucket/a", bucket(Scheme::Google, "bucket", "a"), "gs://bucket/a"),
    ] {
        let location = parse(text).unwrap();
        assert_eq!(location, expected, "{text}");
        assert_eq!(location.to_string(), shown);
    }
}

#[test]
fn typos_are_told_with_what_would_be_right() {
    for (text, reason) in [
        ("", "no scheme"),
        ("s3:/bucket", "perhaps s3://bucket"),
        ("s3:bucket", "no scheme"),
        ("/var/backups", "perhaps file:///var/backups"),
        ("file:/var/backups", "perhaps file:///var/backups"),
        ("file://relative/folder", "three slashes: file:///relative/folder"),
        ("file://./folder", "three slashes: file:///folder"),
        ("file:///", "the root of the file system"),
        ("file:///folder?x=1", "%3F"),
        ("ftp://host/folder", "scheme \"ftp\" is not supported"),
        ("s4://bucket", "scheme \"s4\" is not supported"),
        ("S3://bucket", "scheme \"S3\" is not supported"),
        ("https://bucket.s3.amazonaws.com", "scheme \"https\" is not supported"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket:9000/prefix", "an endpoint is given as an option"),
        ("s3://bucket/prefix?region=x", "query"),
        ("s3://bucket/prefix#x", "fragment"),
        ("s3://bucket/a//b", "prefix is not usable"),
        ("s3://bu cket", "not a URL"),
    ] {
        match open(text, &[]) {
            Err(Error::Location { reason: found, .. }) => assert!(found.contains(reason), "{text:?}: {found}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn invariant_7_credentials_in_a_location_are_refused_and_not_repeated() {
    for text in ["s3://KEY:SECRET@bucket/prefix", "s3://SECRET@bucket", "ftp://user:SECRET@host", "s3:/a:SECRET@b"] {
        let error = open(text, &[]).unwrap_err();
        assert!(matches!(error, Error::Location { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
    }
    let error = open("s4://bucket?key=SECRET", &[]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
}

#[test]
fn options_are_checked() {
    let option = |key: &str, value: &str| [(key.to_owned(), value.to_owned())];
    let refused = |url, option: &[(String, String)]| open(url, option).unwrap_err().to_string();
    assert!(refused("s3://bucket", &option("aws_regoin", "x")).contains("no option \"aws_regoin\""));
    assert!(refused("file:///folder", &option("aws_region", "x")).contains("means nothing to a folder"));
    assert!(open("s3://bucket/prefix", &option("AWS_REGION", "eu-north-1")).is_ok());
    assert!(open("gs://bucket", &option("google_skip_signature", "true")).is_ok());
    assert!(open("az://container", &option("azure_storage_account_name", "account")).is_ok());
}

#[test]
fn opening_a_folder_makes_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("repository");
    open(&format!("file://{}", folder.display()), &[]).unwrap();
    assert!(!folder.exists());
}

#[test]
fn payloads_are_unsigned_by_tls_alone_unless_told() {
    assert!(is_encrypted(None) && is_encrypted(Some("https://s3.example")) && is_encrypted(Some("HTTPS://s3.example")));
    assert!(!is_encrypted(Some("http://127.0.0.1:9000")));
    let option = |key: &str| (key.to_owned(), "false".to_owned());
    assert!(is_set_unsigned(&[&option("AWS_UNSIGNED_PAYLOAD")]) && is_set_unsigned(&[&option("aws_unsigned_payload")]));
    assert!(!is_set_unsigned(&[&option("aws_region")]));
}

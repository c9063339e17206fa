//! Tests of the configuration: what it refuses, and that arguments win.

use super::*;

fn standalone() -> Standalone {
    Standalone {
        endpoint: Some("unix:///run/csi.sock".into()),
        node_id: Some("node-1".into()),
        pool: Some("/srv/pool".into()),
        repository: RepositoryAccess { repository: Some("file:///srv/repository".into()), ..Default::default() },
        ..Default::default()
    }
}

#[test]
fn the_flags_alone_suffice() {
    let settings = File::default().settings(&standalone()).expect("all that is needed is there");
    assert_eq!(settings.endpoint, "unix:///run/csi.sock");
    assert_eq!(settings.node.node_id, "node-1");
    assert_eq!(settings.node.pool, Location::Folder("/srv/pool".into()));
    assert_eq!(settings.access.url, "file:///srv/repository");
}

#[test]
fn a_configuration_alone_suffices_and_arguments_win() {
    let file = File::parse(
        "endpoint = 'unix:///a.sock'\nnode_id = 'a'\npool_image = '/a.img'\npool_size = '20GiB'\n\
         pool_filesystem = 'btrfs'\nrepository = 's3://bucket/a'\nkey_file = '/a.key'\ngrace_seconds = 3\ncollect_hours = 2\nmax_volumes = 8\n",
    )
    .expect("it is well formed");
    let settings = file.settings(&Standalone::default()).expect("all that is needed is there");
    let image = Location::Image { file: "/a.img".into(), bytes: 20 << 30, filesystem: Kind::Btrfs };
    assert_eq!(settings.node.pool, image);
    assert_eq!(settings.access.key_config, Some("/a.key".into()));
    assert_eq!(settings.grace, Duration::from_secs(3));
    assert_eq!(settings.collect, Some(Duration::from_secs(7200)));
    assert_eq!(settings.node.max_volumes, NonZeroU32::new(8));

    let settings = file.settings(&standalone()).expect("all that is needed is there");
    assert_eq!(settings.endpoint, "unix:///run/csi.sock");
    assert_eq!(settings.node.pool, Location::Folder("/srv/pool".into()));
    assert_eq!(settings.access.url, "file:///srv/repository");
}

#[test]
fn what_is_missing_is_named() {
    for (name, missing) in [
        ("--endpoint", Standalone { endpoint: None, ..standalone() }),
        ("--node-id", Standalone { node_id: None, ..standalone() }),
        ("--pool DIR", Standalone { pool: None, ..standalone() }),
        ("--repository", Standalone { repository: RepositoryAccess::default(), ..standalone() }),
        ("--pool-size", Standalone { pool: None, pool_image: Some("/p.img".into()), ..standalone() }),
    ] {
        let error = File::default().settings(&missing).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn unknown_keys_are_refused_naming_them_and_the_line() {
    let error = File::parse("node_id = 'a'\nreposiory = 'file:///x'\n").expect_err("a key is unknown");
    assert!(error.contains("line 2") && error.contains("reposiory"), "{error}");
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_without_quoting_its_line() {
    let error = File::parse("[store]\naws_secret_access_key = ['hush']\n").expect_err("it is a list");
    assert!(error.contains("line 2") && !error.contains("hush"), "{error}");
    for size in ["0", "'-1GiB'", "'many'", "-4096"] {
        let error = File::parse(&format!("pool_size = {size}\n")).expect_err("it is no size");
        assert!(error.contains("as in 20GiB"), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    for (text, name) in [
        ("overcommit = 0.0", "overcommit"),
        ("overcommit = nan", "overcommit"),
        ("offloads = 0", "offloads"),
        ("freeze_limit_ms = 0", "freeze_limit_ms"),
        ("snapshot_wait_ms = 90000", "snapshot_wait_ms"),
        ("max_volumes = 0", "max_volumes"),
        ("grace_seconds = 4000", "grace_seconds"),
        ("collect_hours = 10000", "collect_hours"),
    ] {
        let error = File::parse(text).expect(text).settings(&standalone()).expect_err(text).to_string();
        assert!(error.contains(name) && error.contains("expected"), "{error}");
    }
}

#[test]
fn a_store_section_is_read_from_a_private_file_alone_and_never_shown() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("varve.toml");
    fs::write(&path, "[store]\naws_secret_access_key = 'hush'\n").expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the mode can be set");
    let error = File::read(Some(&path)).expect_err("others may read it").to_string();
    assert!(error.contains("0644") && error.contains("0600"), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
    let file = File::read(Some(&path)).expect("only its owner may read it");
    assert_eq!(file.store.pairs(), [("aws_secret_access_key".to_owned(), "hush".to_owned())]);
    assert!(!format!("{file:?}").contains("hush"));

    // The second repository's may be secret as well.
    fs::write(&path, "[copy.store]\naws_secret_access_key = 'hush'\n").expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("the mode can be set");
    assert!(File::read(Some(&path)).is_err());
}

#[test]
fn the_second_repository_is_named_by_arguments_environment_and_configuration() {
    let file = File::parse(
        "[store]\naws_region = 'one'\n[copy]\nrepository = 's3://second/a'\nkey_file = '/second.key'\n\
         [copy.store]\naws_region = 'two'\naws_endpoint = 'https://two.example'\n",
    )
    .expect("it is well formed");
    let access = file.copy_access(None, None, Vec::new()).expect("all that is needed is there");
    assert_eq!((access.url.as_str(), access.key_config), ("s3://second/a", Some("/second.key".into())));
    assert_eq!(access.store.pairs().len(), 2);
    let environment = vec![("aws_region".to_owned(), "three".to_owned())];
    let access = file.copy_access(Some("s3://third/b".into()), Some("/third.key".into()), environment);
    let access = access.expect("all that is needed is there");
    assert_eq!((access.url.as_str(), access.key_argument), ("s3://third/b", Some("/third.key".into())));
    let pairs = [("aws_endpoint", "https://two.example"), ("aws_region", "three")];
    assert_eq!(access.store.pairs(), pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let error = File::default().copy_access(None, None, Vec::new()).expect_err("none is named").to_string();
    assert!(error.contains("--to") && error.contains("[copy]"), "{error}");
}

#[test]
fn an_odd_node_id_is_refused() {
    for id in ["", "a b", "a/b", &"x".repeat(193)] {
        let error = File::default()
            .settings(&Standalone { node_id: Some(id.into()), ..standalone() })
            .expect_err("it is no node's name")
            .to_string();
        assert!(error.contains("--node-id"), "{error}");
    }
}

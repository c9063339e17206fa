//! Tests of the configuration: what it refuses, and that arguments win.

use std::{num::NonZeroU32, time::Duration};

use varve_kubernetes::directory::Service;
use varve_node::{
    config::OffloadLimits,
    pool::{Kind, Location},
    watermark::{Mark, Marks},
};

use super::*;
use crate::arguments::{self, Controller, Node, Place, Serve, Standalone};

fn serve() -> Serve {
    Serve {
        endpoint: Some("unix:///run/csi.sock".into()),
        repository: RepositoryAccess { repository: Some("file:///srv/repository".into()), ..Default::default() },
        ..Default::default()
    }
}

fn place() -> Place {
    Place { node_id: Some("node-1".into()), pool: Some("/srv/pool".into()), ..Default::default() }
}

fn standalone() -> Standalone {
    Standalone { serve: serve(), place: place(), ..Default::default() }
}

#[test]
fn the_flags_alone_suffice() {
    let settings = File::default().settings(&standalone()).expect("all that is needed is there");
    assert_eq!(settings.serve.endpoint, "unix:///run/csi.sock");
    assert_eq!(settings.node.node_id, "node-1");
    assert_eq!(settings.node.pool, Location::Folder("/srv/pool".into()));
    assert_eq!(settings.serve.access.url, "file:///srv/repository");
}

#[test]
fn a_configuration_alone_suffices_and_arguments_win() {
    let file = File::parse(
        "endpoint = 'unix:///a.sock'\nnode_id = 'a'\npool_image = '/a.img'\npool_size = '20GiB'\n\
         pool_filesystem = 'btrfs'\nrepository = 's3://bucket/a'\nkey_file = '/a.key'\ngrace_seconds = 3\ncollect_hours = 2\nmax_volumes = 8\nmemory = '64MiB'\n",
    )
    .expect("it is well formed");
    let settings = file.settings(&Standalone::default()).expect("all that is needed is there");
    let image = Location::Image { file: "/a.img".into(), bytes: 20 << 30, filesystem: Kind::Btrfs };
    assert_eq!(settings.node.pool, image);
    assert_eq!(settings.serve.access.key_config, Some("/a.key".into()));
    assert_eq!(settings.serve.grace, Duration::from_secs(3));
    assert_eq!(settings.control.collect, Some(Duration::from_secs(7200)));
    assert_eq!(settings.node.max_volumes, NonZeroU32::new(8));
    assert_eq!(settings.serve.access.memory, 64 << 20);

    let settings = file.settings(&standalone()).expect("all that is needed is there");
    assert_eq!(settings.serve.endpoint, "unix:///run/csi.sock");
    assert_eq!(settings.node.pool, Location::Folder("/srv/pool".into()));
    assert_eq!(settings.serve.access.url, "file:///srv/repository");
}

#[test]
fn what_is_missing_is_named() {
    for (name, missing) in [
        ("--endpoint", Standalone { serve: Serve { endpoint: None, ..serve() }, place: place(), ..Default::default() }),
        ("--node-id", Standalone { serve: serve(), place: Place { node_id: None, ..place() }, ..Default::default() }),
        ("--pool DIR", Standalone { serve: serve(), place: Place { pool: None, ..place() }, ..Default::default() }),
        (
            "--repository",
            Standalone {
                serve: Serve { repository: RepositoryAccess::default(), ..serve() },
                place: place(),
                ..Default::default()
            },
        ),
        (
            "--pool-size",
            Standalone {
                serve: serve(),
                place: Place { pool: None, pool_image: Some("/p.img".into()), ..place() },
                ..Default::default()
            },
        ),
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
        ("memory = '39MiB'", "memory is 40894464 bytes: expected 40MiB or more"),
        ("overcommit = nan", "overcommit"),
        ("offloads = 0", "offloads"),
        ("freeze_limit_ms = 0", "freeze_limit_ms"),
        ("snapshot_wait_ms = 90000", "snapshot_wait_ms"),
        ("max_volumes = 0", "max_volumes"),
        ("waiting_cuts = 0", "waiting_cuts"),
        ("waiting_cuts_per_volume = 200000", "waiting_cuts_per_volume"),
        ("upload_bandwidth = '1000'", "upload_bandwidth is 1000 B"),
        ("download_bandwidth = '63KiB'", "download_bandwidth"),
        ("io_bandwidth = 1", "io_bandwidth"),
        ("grace_seconds = 4000", "grace_seconds"),
        ("collect_hours = 10000", "collect_hours"),
    ] {
        let error = File::parse(text).expect(text).settings(&standalone()).expect_err(text).to_string();
        assert!(error.contains(name) && error.contains("expected"), "{error}");
    }
}

#[test]
fn limits_are_bytes_a_second_and_none_unless_they_are_set() {
    let settings = File::default().settings(&standalone()).expect("all that is needed is there");
    assert_eq!(settings.serve.bandwidth, Bandwidth { upload: None, download: None });
    assert_eq!(settings.node.offload_limits, OffloadLimits::default());
    let text = "upload_bandwidth = '100MiB'\ndownload_bandwidth = '10MB'\nio_bandwidth = '64KiB'\nwaiting_cuts = 7\n\
                waiting_cuts_per_volume = 3\n";
    let settings = File::parse(text).expect("it is well formed").settings(&standalone()).expect("it is within range");
    assert_eq!(settings.serve.bandwidth, Bandwidth { upload: Some(100 << 20), download: Some(10_000_000) });
    let limits =
        OffloadLimits { waiting_of_volume: 3, waiting: 7, io_bandwidth: Some(64 << 10), ..OffloadLimits::default() };
    assert_eq!(settings.node.offload_limits, limits);
    for text in ["upload_bandwidth = 'fast'", "io_bandwidth = 0", "download_bandwidth = '-1MiB'"] {
        File::parse(text).expect_err(text);
    }
}

#[test]
fn watermarks_are_shares_or_sizes_in_their_order() {
    let marks = |text: &str| {
        let settings = File::parse(text)?.settings(&standalone());
        settings.map(|settings| settings.node.marks).map_err(|error| error.to_string())
    };
    assert_eq!(marks("").expect("there are defaults"), Marks::default());
    let some = marks("shed_bases_below = '20GiB'\nrefuse_snapshots_below = '2.5%'").expect("both are right");
    assert_eq!(some.shed_bases_below, Mark::Bytes(20 << 30));
    assert_eq!(some.refuse_snapshots_below, Mark::Share(0.025));
    for (text, name) in [
        ("shed_bases_below = '60%'", "shed_bases_below is 60%: expected 0.1% to 50%"),
        ("refuse_snapshots_below = '0%'", "refuse_snapshots_below is 0%: expected 0.1% to 50%"),
        ("refuse_snapshots_below = 'nan%'", "refuse_snapshots_below is NaN%: expected"),
        ("shed_bases_below = '4%'", "refuse_snapshots_below is 5%: expected at most shed_bases_below, which is 4%"),
        ("shed_bases_below = 'much'", "as in \"10%\""),
        ("shed_bases_below = '1GiB'\nrefuse_snapshots_below = '2GiB'", "expected at most shed_bases_below"),
    ] {
        let error = marks(text).expect_err(text);
        assert!(error.contains(name), "{error}");
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
            .settings(&Standalone {
                serve: serve(),
                place: Place { node_id: Some(id.into()), ..place() },
                ..Default::default()
            })
            .expect_err("it is no node's name")
            .to_string();
        assert!(error.contains("--node-id"), "{error}");
    }
}

#[test]
fn a_controller_has_nodes_and_no_pool() {
    let file = File::parse("[nodes]\nnode-1 = '10.0.0.1:7420'\nnode-2 = 'node-2.example:7421'\n").expect("well formed");
    let settings =
        file.controller(&Controller { serve: serve(), ..Default::default() }).expect("all that is needed is there");
    let nodes = [("node-1", "10.0.0.1:7420"), ("node-2", "node-2.example:7421")];
    assert_eq!(
        settings.discovery,
        Discovery::Table(nodes.map(|(name, address)| (name.to_owned(), address.to_owned())).into())
    );
    let error = File::default()
        .controller(&Controller { serve: serve(), ..Default::default() })
        .expect_err("none are named")
        .to_string();
    assert!(error.contains("[nodes]") && error.contains("10.0.0.1:7420"), "{error}");
    for (text, names) in [
        ("node-1 = '10.0.0.1'", ["node-1", "10.0.0.1"]),
        ("node-1 = ':7420'", ["node-1", ":7420"]),
        ("node-1 = 'host:0'", ["node-1", "host:0"]),
        ("'node 1' = 'host:7420'", ["node 1", "expected"]),
    ] {
        let file = File::parse(&format!("[nodes]\n{text}\n")).expect("well formed");
        let error = file.controller(&Controller { serve: serve(), ..Default::default() }).expect_err(text).to_string();
        assert!(names.iter().all(|name| error.contains(name)) && error.contains("[nodes]"), "{error}");
    }
}

#[test]
fn nothing_listens_for_http_unless_it_is_told() {
    let listen = |text: &str, argument: Option<&str>| {
        let http_listen = argument.map(|text| text.parse().expect("an address"));
        let controller = Controller { serve: Serve { http_listen, ..serve() }, ..Default::default() };
        let file = File::parse(&format!("{text}\n[nodes]\n")).expect("well formed");
        let settings = file.controller(&controller).expect("all that is needed is there");
        settings.serve.http_listen.map(|address| address.to_string())
    };
    assert_eq!(listen("", None), None);
    assert_eq!(listen("http_listen = '127.0.0.1:1'", None).as_deref(), Some("127.0.0.1:1"));
    assert_eq!(listen("http_listen = '127.0.0.1:1'", Some("0.0.0.0:2")).as_deref(), Some("0.0.0.0:2"));
    let error = File::parse("http_listen = '9464'\n").expect_err("it is no address");
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn the_kubelet_is_told_where_the_socket_is() {
    let kubelet = |text: &str, folder: Option<&str>, endpoint: Option<&str>| {
        let kubelet = arguments::Kubelet {
            kubelet_registration: folder.map(Into::into),
            kubelet_endpoint: endpoint.map(Into::into),
        };
        let node = Node { serve: serve(), place: place(), kubelet, ..Default::default() };
        let settings = File::parse(text).expect("well formed").node(&node).map_err(|error| error.to_string())?;
        let told = settings.kubelet.map(|kubelet| (kubelet.socket.to_string(), kubelet.plugin));
        Ok::<_, String>(told.map(|(socket, plugin)| (socket, plugin.display().to_string())))
    };
    let told = |socket: &str, plugin: &str| Some((socket.to_owned(), plugin.to_owned()));
    assert_eq!(kubelet("", None, None), Ok(None));
    let socket = "unix:///registry/varve@csi.varve.io-reg.sock";
    assert_eq!(kubelet("", Some("/registry"), None), Ok(told(socket, "/run/csi.sock")));
    assert_eq!(kubelet("", Some("/registry"), Some("/host/csi.sock")), Ok(told(socket, "/host/csi.sock")));
    let text = "kubelet_registration = '/registry'\nkubelet_endpoint = '/host/csi.sock'\n";
    assert_eq!(kubelet(text, None, None), Ok(told(socket, "/host/csi.sock")));
    for (text, folder, endpoint, names) in [
        ("", Some("registry"), None, "--kubelet-registration"),
        ("", Some("/registry"), Some("csi.sock"), "--kubelet-endpoint"),
        ("kubelet_endpoint = '/csi.sock'", None, None, "kubelet_registration"),
    ] {
        let error = kubelet(text, folder, endpoint).expect_err("it is not usable");
        assert!(error.contains(names), "{error}");
    }
    let longest = format!("/{}", "f".repeat(78));
    kubelet("", Some(&longest), None).expect("a socket fits");
    kubelet("", Some(&format!("{longest}f")), None).expect_err("a socket does not fit");
}

#[test]
fn nodes_are_found_by_a_service_or_by_a_table() {
    let discovery = |text: &str, argument: Option<&str>| {
        let controller = Controller { serve: serve(), discover_nodes: argument.map(str::to_owned) };
        let settings = File::parse(text).expect("well formed").controller(&controller);
        settings.map(|settings| settings.discovery).map_err(|error| error.to_string())
    };
    let by = |namespace: Option<&str>, name: &str| {
        Ok(Discovery::Kubernetes(Service { namespace: namespace.map(str::to_owned), name: name.to_owned() }))
    };
    assert_eq!(discovery("", Some("varve-agents")), by(None, "varve-agents"));
    assert_eq!(discovery("discover_nodes = 'a/b'\n", None), by(Some("a"), "b"));
    assert_eq!(discovery("discover_nodes = 'a/b'\n", Some("c/d")), by(Some("c"), "d"));
    assert_eq!(discovery("[nodes]\nnode-1 = '10.0.0.1:7420'\n", Some("c/d")), by(Some("c"), "d"));
    let error = discovery("discover_nodes = 'a/b'\n[nodes]\n", None).expect_err("they are two");
    assert!(error.contains("discover_nodes") && error.contains("[nodes]"), "{error}");
    for text in ["", "/b", "a/", "a/b/c", "A/b", "-a/b", "a/b.c", &"a".repeat(64)] {
        let error = discovery("", Some(text)).expect_err(text);
        assert!(error.contains("--discover-nodes") && error.contains("varve-system/varve-agents"), "{error}");
    }
}

#[test]
fn a_node_listens_where_it_is_told() {
    let listen = |file: &File, agent_listen: Option<&str>| {
        let agent_listen = agent_listen.map(|text| text.parse().expect("an address"));
        let settings = file.node(&Node { serve: serve(), place: place(), agent_listen, ..Default::default() });
        settings.expect("all that is needed is there").agent_listen.to_string()
    };
    let file = File::parse("agent_listen = '127.0.0.1:1'\n").expect("well formed");
    assert_eq!(listen(&File::default(), None), "0.0.0.0:7420");
    assert_eq!(listen(&file, None), "127.0.0.1:1");
    assert_eq!(listen(&file, Some("[::1]:2")), "[::1]:2");
    let error = File::parse("agent_listen = 'here'\n").expect_err("it is no address");
    assert!(error.contains("line 1"), "{error}");
}

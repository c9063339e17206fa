//! Every key, every value that is accepted, and what the refusals say.

use tonic::Code;

use super::*;

fn map(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn offload(entries: &[(&str, &str)]) -> Result<OffloadParameters, Status> {
    Ok(Offload::parse("parameters", &map(entries))?.over(OffloadParameters::default()))
}

#[test]
fn levels_are_none_or_one_to_nineteen() {
    for (text, level) in [("none", 0), ("1", 1), ("3", 3), ("19", 19)] {
        assert_eq!(offload(&[("compression", text)]).unwrap().compression, Some(level), "{text}");
    }
    for text in ["", "0", "20", "-1", "3.5", "zstd", "None"] {
        let error = offload(&[("compression", text)]).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{text}");
        assert!(error.message().contains("parameters[\"compression\"]"), "{}", error.message());
        assert!(error.message().contains("from 1 to 19"), "{}", error.message());
    }
}

#[test]
fn rates_take_decimal_and_binary_units() {
    let table = [
        ("none", None),
        ("1", Some(1)),
        ("10K", Some(10_000)),
        ("10M", Some(10_000_000)),
        ("2G", Some(2_000_000_000)),
        ("10Ki", Some(10_240)),
        ("10Mi", Some(10_485_760)),
        ("2Gi", Some(2_147_483_648)),
    ];
    for (text, bytes) in table {
        assert_eq!(offload(&[("bandwidth", text)]).unwrap().bandwidth, bytes, "{text}");
    }
    for text in ["", "0", "0M", "-1", "1.5M", "M", "10m", "10MB", "10 M", "99999999999G", "٣"] {
        assert_eq!(offload(&[("bandwidth", text)]).unwrap_err().code(), Code::InvalidArgument, "{text}");
    }
}

#[test]
fn weights_are_one_to_a_hundred_and_reads_are_limited_as_sending_is() {
    for (text, weight) in [("1", 1), ("10", 10), ("100", 100)] {
        assert_eq!(offload(&[("weight", text)]).unwrap().weight, Some(weight), "{text}");
    }
    for text in ["", "0", "101", "-1", "1.5", "none", "heavy"] {
        let error = offload(&[("weight", text)]).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{text}");
        assert!(error.message().contains("parameters[\"weight\"]"), "{}", error.message());
        assert!(error.message().contains("from 1 to 100"), "{}", error.message());
    }
    let both = offload(&[("bandwidth", "10M"), ("io_bandwidth", "20Mi")]).unwrap();
    assert_eq!((both.bandwidth, both.io_bandwidth), (Some(10_000_000), Some(20 << 20)));
    let error = offload(&[("io_bandwidth", "0")]).unwrap_err();
    assert!(error.message().contains("parameters[\"io_bandwidth\"]"), "{}", error.message());
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones_named() {
    let error = offload(&[("compresion", "3")]).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    for part in ["parameters", "\"compresion\"", "bandwidth, compression, io_bandwidth, weight"] {
        assert!(error.message().contains(part), "{}", error.message());
    }
    let error = Durability::parse("parameters", &map(&[("compression", "3")])).unwrap_err();
    assert!(error.message().contains("durability"), "{}", error.message());
}

#[test]
fn what_sidecars_add_is_accepted() {
    let added = [("csi.storage.k8s.io/pvc/name", "data"), ("csi.storage.k8s.io/pvc/namespace", "mesh")];
    assert_eq!(offload(&added).unwrap(), OffloadParameters::default());
    assert_eq!(Durability::parse("parameters", &map(&added)).unwrap(), Durability::Bucket);
}

#[test]
fn of_a_record_the_claim_alone_goes_on_to_snapshots() {
    let recorded = [
        ("compression", "3"),
        ("csi.storage.k8s.io/pv/name", "pvc-1"),
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("csi.storage.k8s.io/pvc/namespace", "mesh"),
    ];
    let expected = map(&[("csi.storage.k8s.io/pvc/name", "data"), ("csi.storage.k8s.io/pvc/namespace", "mesh")]);
    assert_eq!(claim(&super::recorded(&map(&recorded))), expected);
    assert_eq!(claim(&BTreeMap::new()), HashMap::new());
}

#[test]
fn only_what_is_named_changes() {
    let current =
        OffloadParameters { compression: Some(3), bandwidth: Some(1000), weight: Some(20), io_bandwidth: Some(5000) };
    let change = |entries: &[(&str, &str)]| Offload::parse("mutable_parameters", &map(entries)).unwrap();
    assert_eq!(change(&[]).over(current), current);
    assert_eq!(change(&[("bandwidth", "none")]).over(current).bandwidth, None);
    assert_eq!(change(&[("bandwidth", "none")]).over(current).compression, Some(3));
    assert_eq!(change(&[("weight", "5")]).over(current), OffloadParameters { weight: Some(5), ..current });
    assert_eq!(change(&[("io_bandwidth", "none")]).over(current), OffloadParameters { io_bandwidth: None, ..current });
    assert!(change(&[("compression", "3")]).holds_in(current));
    assert!(!change(&[("compression", "none")]).holds_in(current));
}

#[test]
fn durability_is_bucket_unless_named() {
    let parse = |entries: &[(&str, &str)]| Durability::parse("parameters", &map(entries));
    assert_eq!(parse(&[]).unwrap(), Durability::Bucket);
    assert_eq!(parse(&[("durability", "bucket")]).unwrap(), Durability::Bucket);
    assert_eq!(parse(&[("durability", "node")]).unwrap(), Durability::Node);
    let error = parse(&[("durability", "Node")]).unwrap_err();
    assert!(error.message().contains("bucket or node"), "{}", error.message());
}

#[test]
fn a_map_that_is_too_long_is_refused() {
    let long = "x".repeat(name::LARGEST_MAP);
    let error = offload(&[("csi.storage.k8s.io/pvc/name", &long)]).unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

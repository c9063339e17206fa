//! Holds our CSI definition against the published one, and the comparison against definitions that differ.

mod facts;
mod mutation;

use std::{fs, path::PathBuf, process::Command};

use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use self::facts::Facts;

/// The Go module that CSI is published as, and its checksum.
const MODULE: &str = "github.com/container-storage-interface/spec@v1.13.0";
const CHECKSUM: &str = "h1:6ja3nYoACisewTPAAZkJ1pbf4+1ehhvt9Z/nYgWGHGw=";

#[test]
fn ours_is_the_published_definition() {
    let published = published();
    let text = fs::read_to_string(published.join("csi.proto")).expect("the module holds csi.proto");
    let mut compiler = protox::Compiler::new([&published]).expect("the module is a folder");
    compiler.include_imports(true).open_file("csi.proto").expect("the published definition compiles");
    let published = facts::of(&csi(&compiler.encode_file_descriptor_set()));
    let ours = facts::of(&csi(varve_proto::DESCRIPTORS));

    // The walk reached every option and every procedure: as many as there are in the text.
    for option in ["csi_secret", "alpha_field", "alpha_enum_value", "alpha_message", "alpha_method", "alpha_service"] {
        let found = count(&published, &format!("[csi.v1.{option}]"), "Bool(true)");
        assert_eq!(found, text.matches(&format!("({option}) = true")).count(), "{option}");
        assert!(found > 0, "{option}");
    }
    let procedures = text.lines().filter(|line| line.trim_start().starts_with("rpc ")).count();
    assert_eq!((count(&published, "input_type", ""), procedures), (36, 36));

    let differences = facts::differences(&ours, &published);
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(ours, published);
}

#[test]
fn the_agent_api_is_compiled_too() {
    let pool = DescriptorPool::decode(varve_proto::DESCRIPTORS).expect("the build wrote descriptors");
    let agent = pool.get_service_by_name("varve.agent.v1.Agent").expect("the agent API has a service");
    assert!(agent.methods().any(|method| method.name() == "CreateImage"));
}

/// Decodes `csi.proto` out of an encoded set, with the options that it defines itself.
fn csi(set: &[u8]) -> DynamicMessage {
    let pool = DescriptorPool::decode(set).expect("a set of descriptors");
    let kind = pool.get_message_by_name("google.protobuf.FileDescriptorSet").expect("imported by csi.proto");
    let set = DynamicMessage::decode(kind, set).expect("a set of descriptors");
    let files = set.get_field_by_name("file").expect("a set has files");
    let mut files = files.as_list().expect("files are a list").iter().filter_map(Value::as_message);
    let csi = |file: &&DynamicMessage| {
        file.get_field_by_name("package").is_some_and(|package| package.as_str() == Some("csi.v1"))
    };
    files.find(csi).expect("csi.v1 is in the set").clone()
}

fn count(facts: &Facts, field: &str, value: &str) -> usize {
    let end = format!(" / {field}");
    facts.iter().filter(|(path, content)| path.ends_with(&end) && content.contains(value)).count()
}

/// Fetches the published definition and returns its folder.
fn published() -> PathBuf {
    let outside_of_any_module = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(&outside_of_any_module)
        .envs([("GO111MODULE", "on"), ("GOWORK", "off"), ("GOFLAGS", "")])
        .output()
        .unwrap_or_else(|error| panic!("go is needed to fetch {MODULE}: apt-get install -y golang-go ({error})"));
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go mod download {MODULE} failed: {text}{said}");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("go mod download -json writes JSON");
    assert_eq!(answer["Sum"], CHECKSUM, "the module is not the one that was published");
    PathBuf::from(answer["Dir"].as_str().expect("go mod download tells the folder"))
}

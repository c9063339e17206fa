//! Holds our definitions of CSI and of the kubelet's registration against the published ones, and the comparison against
//! definitions that differ.

mod facts;
mod mutation;

use std::{fs, path::PathBuf, process::Command};

use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use self::facts::Facts;

/// A Go module that a definition is published in, and its checksum.
struct Module {
    version: &'static str,
    checksum: &'static str,
}

const CSI: Module = Module {
    version: "github.com/container-storage-interface/spec@v1.13.0",
    checksum: "h1:6ja3nYoACisewTPAAZkJ1pbf4+1ehhvt9Z/nYgWGHGw=",
};

const KUBELET: Module =
    Module { version: "k8s.io/kubelet@v0.36.3", checksum: "h1:dRzEnhHk35Opy6wjWR4YBcN5RI9lB2npUY37TghFuPU=" };

#[test]
fn ours_is_the_published_definition() {
    let published = CSI.fetch();
    let text = fs::read_to_string(published.join("csi.proto")).expect("the module holds csi.proto");
    let mut compiler = protox::Compiler::new([&published]).expect("the module is a folder");
    compiler.include_imports(true).open_file("csi.proto").expect("the published definition compiles");
    let published = facts::of(&file("csi.v1", &compiler.encode_file_descriptor_set()));
    let ours = facts::of(&file("csi.v1", varve_proto::DESCRIPTORS));

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
fn the_registration_is_the_published_definition() {
    let folder = KUBELET.fetch().join("pkg/apis/pluginregistration/v1");
    let mut compiler = protox::Compiler::new([&folder]).expect("the module is a folder");
    compiler.open_file("api.proto").expect("the published definition compiles");
    let set = compiler.encode_file_descriptor_set();
    let definition = |set: &[u8]| {
        let mut facts = facts::of(&file("pluginregistration", set));
        // The file's name and its options for Go are not on the wire.
        facts.retain(|path, _| path.starts_with("message_type") || path.starts_with("service"));
        facts
    };
    let (ours, published) = (definition(varve_proto::DESCRIPTORS), definition(&set));
    assert_eq!((count(&published, "input_type", ""), published.len() > 40), (2, true), "{published:?}");
    assert_eq!(facts::differences(&ours, &published), Vec::<String>::new());
}

#[test]
fn every_method_has_a_name() {
    let methods = varve_proto::methods();
    for method in
        ["csi.v1.Controller/CreateVolume", "varve.agent.v1.Agent/CreateCuts", "pluginregistration.Registration/GetInfo"]
    {
        assert!(methods.iter().any(|known| known == method), "{methods:?}");
    }
    assert_eq!(methods.len(), 36 + 10 + 2, "{methods:?}");
}

#[test]
fn the_agent_api_is_compiled_too() {
    let pool = DescriptorPool::decode(varve_proto::DESCRIPTORS).expect("the build wrote descriptors");
    let agent = pool.get_service_by_name("varve.agent.v1.Agent").expect("the agent API has a service");
    assert!(agent.methods().any(|method| method.name() == "CreateImage"));
}

/// Decodes the file of a package out of an encoded set, with the options that it defines itself.
fn file(package: &str, set: &[u8]) -> DynamicMessage {
    let pool = DescriptorPool::decode(set).expect("a set of descriptors");
    // CSI imports it for its own options; what imports nothing needs no options of its own.
    let plain = DescriptorPool::decode(varve_proto::DESCRIPTORS).expect("a set of descriptors");
    let kind = [pool, plain].iter().find_map(|pool| pool.get_message_by_name("google.protobuf.FileDescriptorSet"));
    let kind = kind.expect("imported by csi.proto");
    let set = DynamicMessage::decode(kind, set).expect("a set of descriptors");
    let files = set.get_field_by_name("file").expect("a set has files");
    let mut files = files.as_list().expect("files are a list").iter().filter_map(Value::as_message);
    let wanted =
        |file: &&DynamicMessage| file.get_field_by_name("package").is_some_and(|found| found.as_str() == Some(package));
    files.find(wanted).unwrap_or_else(|| panic!("{package} is in the set")).clone()
}

fn count(facts: &Facts, field: &str, value: &str) -> usize {
    let end = format!(" / {field}");
    facts.iter().filter(|(path, content)| path.ends_with(&end) && content.contains(value)).count()
}

impl Module {
    /// Fetches it and returns its folder.
    fn fetch(&self) -> PathBuf {
        let version = self.version;
        let outside_of_any_module = tempfile::tempdir().expect("a temporary folder");
        let output = Command::new("go")
            .args(["mod", "download", "-json", version])
            .current_dir(&outside_of_any_module)
            .envs([("GO111MODULE", "on"), ("GOWORK", "off"), ("GOFLAGS", "")])
            .output()
            .unwrap_or_else(|error| panic!("go is needed to fetch {version}: apt-get install -y golang-go ({error})"));
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "go mod download {version} failed: {text}{said}");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("go mod download -json writes JSON");
        assert_eq!(answer["Sum"], self.checksum, "the module is not the one that was published");
        PathBuf::from(answer["Dir"].as_str().expect("go mod download tells the folder"))
    }
}

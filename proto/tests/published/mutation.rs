//! Definitions that differ from ours in one thing each: the comparison has to find each.

use prost_reflect::{DynamicMessage, ExtensionDescriptor, ReflectMessage, Value};

use crate::{facts, file};

/// Changes one thing and returns what the comparison reports.
fn after(change: impl FnOnce(&mut DynamicMessage)) -> Vec<String> {
    let file = file("csi.v1", varve_proto::DESCRIPTORS);
    let mut changed = file.clone();
    change(&mut changed);
    facts::differences(&facts::of(&changed), &facts::of(&file))
}

/// Walks to a descriptor: `message_type X`, `field y` and so on by name, or `options`.
fn at<'a>(file: &'a mut DynamicMessage, path: &[&str]) -> &'a mut DynamicMessage {
    path.iter().fold(file, |message, step| match step.split_once(' ') {
        None => message.get_field_by_name_mut(step).and_then(Value::as_message_mut).expect("a message"),
        Some((list, name)) => {
            let elements = list_mut(message, list).iter_mut().filter_map(Value::as_message_mut);
            elements.into_iter().find(|element| is_named(element, name)).expect("an element of that name")
        }
    })
}

fn list_mut<'a>(message: &'a mut DynamicMessage, list: &str) -> &'a mut Vec<Value> {
    message.get_field_by_name_mut(list).and_then(Value::as_list_mut).expect("a list")
}

fn is_named(message: &DynamicMessage, name: &str) -> bool {
    message.get_field_by_name("name").is_some_and(|found| found.as_str() == Some(name))
}

fn drop_from(message: &mut DynamicMessage, list: &str, name: &str) {
    let elements = list_mut(message, list);
    let before = elements.len();
    elements.retain(|element| !element.as_message().is_some_and(|message| is_named(message, name)));
    assert_eq!(elements.len() + 1, before, "{list} {name} was there");
}

fn option(options: &DynamicMessage, name: &str) -> ExtensionDescriptor {
    let pool = options.descriptor().parent_pool().clone();
    pool.get_extension_by_name(&format!("csi.v1.{name}")).expect("an option of CSI")
}

fn set(message: &mut DynamicMessage, field: &str, value: Value) {
    message.set_field_by_name(field, value);
}

#[test]
fn nothing_changed_is_nothing_reported() {
    assert_eq!(after(|_| ()), Vec::<String>::new());
}

#[test]
fn the_order_of_a_definition_does_not_matter() {
    let reordered = after(|file| {
        list_mut(file, "message_type").reverse();
        list_mut(at(file, &["message_type CreateVolumeRequest"]), "field").reverse();
        list_mut(at(file, &["service Node"]), "method").reverse();
        list_mut(file, "dependency").reverse();
    });
    assert_eq!(reordered, Vec::<String>::new());
}

#[test]
fn changed_fields_are_reported() {
    let name = &["message_type CreateVolumeRequest", "field name"];
    let reported = after(|file| set(at(file, name), "number", Value::I32(9)));
    assert_eq!(reported, ["message_type CreateVolumeRequest / field name / number: 9, published as 1"]);

    let reported = after(|file| set(at(file, name), "json_name", Value::String("title".into())));
    assert_eq!(reported, ["message_type CreateVolumeRequest / field name / json_name: title, published as name"]);

    // 12 is TYPE_BYTES, 3 is LABEL_REPEATED.
    let reported = after(|file| set(at(file, name), "type", Value::EnumNumber(12)));
    assert_eq!(
        reported,
        ["message_type CreateVolumeRequest / field name / type: TYPE_BYTES, published as TYPE_STRING"]
    );
    let reported = after(|file| set(at(file, name), "label", Value::EnumNumber(3)));
    assert_eq!(
        reported,
        ["message_type CreateVolumeRequest / field name / label: LABEL_REPEATED, published as LABEL_OPTIONAL"]
    );
    let reported = after(|file| set(at(file, name), "proto3_optional", Value::Bool(true)));
    assert_eq!(reported, ["message_type CreateVolumeRequest / field name / proto3_optional: not published (true)"]);

    let source = &["message_type CreateVolumeRequest", "field volume_content_source"];
    let reported = after(|file| set(at(file, source), "type_name", Value::String(".csi.v1.Volume".into())));
    let path = "message_type CreateVolumeRequest / field volume_content_source / type_name";
    assert_eq!(reported, [format!("{path}: .csi.v1.Volume, published as .csi.v1.VolumeContentSource")]);
}

#[test]
fn changed_oneofs_are_reported() {
    let source = "message_type VolumeContentSource";
    let reported = after(|file| at(file, &[source, "field volume"]).clear_field_by_name("oneof_index"));
    assert_eq!(reported, [format!("{source} / field volume / oneof_index: missing (type)")]);

    let reported = after(|file| set(at(file, &[source, "oneof_decl type"]), "name", Value::String("kind".into())));
    assert_eq!(reported.len(), 4, "the oneof under both names, and both of its fields: {reported:?}");
    assert!(reported.contains(&format!("{source} / oneof_decl type: missing (present)")));
    assert!(reported.contains(&format!("{source} / field volume / oneof_index: kind, published as type")));
}

#[test]
fn changed_options_are_reported() {
    let secrets = &["message_type CreateVolumeRequest", "field secrets", "options"];
    let reported = after(|file| {
        let options = at(file, secrets);
        options.clear_extension(&option(options, "csi_secret"));
    });
    let path = "message_type CreateVolumeRequest / field secrets / options / [csi.v1.csi_secret]";
    assert_eq!(reported, [format!("{path}: missing (Bool(true))")]);

    let reported = after(|file| {
        let options = at(file, secrets);
        options.set_extension(&option(options, "csi_secret"), Value::Bool(false));
    });
    assert_eq!(reported, [format!("{path}: Bool(false), published as Bool(true)")]);

    for (path, name) in [
        (vec!["service SnapshotMetadata", "options"], "alpha_service"),
        (vec!["service Controller", "method GetSnapshot", "options"], "alpha_method"),
        (vec!["message_type VolumeHealth", "options"], "alpha_message"),
        (vec!["message_type Snapshot", "field accessible_topology", "options"], "alpha_field"),
        (
            vec![
                "message_type PluginCapability",
                "nested_type Service",
                "enum_type Type",
                "value SNAPSHOT_METADATA_SERVICE",
                "options",
            ],
            "alpha_enum_value",
        ),
    ] {
        let reported = after(|file| {
            let options = at(file, &path);
            options.clear_extension(&option(options, name));
        });
        assert_eq!(reported, [format!("{} / [csi.v1.{name}]: missing (Bool(true))", path.join(" / "))]);
    }

    let reported = after(|file| set(at(file, &["options"]), "go_package", Value::String("csi".into())));
    assert_eq!(
        reported,
        ["options / go_package: csi, published as github.com/container-storage-interface/spec/lib/go/csi"]
    );

    let entry = &["message_type Topology", "nested_type SegmentsEntry", "options"];
    let reported = after(|file| set(at(file, entry), "map_entry", Value::Bool(false)));
    assert_eq!(reported, [format!("{} / map_entry: false, published as true", entry.join(" / "))]);
}

#[test]
fn changed_extensions_are_reported() {
    let reported = after(|file| set(at(file, &["extension csi_secret"]), "number", Value::I32(1061)));
    assert_eq!(reported, ["extension csi_secret / number: 1061, published as 1059"]);
    let other = Value::String(".google.protobuf.EnumOptions".into());
    let reported = after(|file| set(at(file, &["extension csi_secret"]), "extendee", other));
    let message =
        "extension csi_secret / extendee: .google.protobuf.EnumOptions, published as .google.protobuf.FieldOptions";
    assert_eq!(reported, [message]);
    let reported = after(|file| drop_from(file, "extension", "alpha_enum"));
    assert_eq!(reported, ["extension alpha_enum: missing (present)"]);
}

#[test]
fn changed_reservations_are_reported() {
    let path = &["message_type NodeGetVolumeStatsResponse"];
    let reported = after(|file| at(file, path).clear_field_by_name("reserved_range"));
    assert_eq!(reported, ["message_type NodeGetVolumeStatsResponse / reserved_range 2..3: missing (present)"]);

    let path = &["message_type NodeServiceCapability", "nested_type RPC", "enum_type Type"];
    let reported = after(|file| at(file, path).clear_field_by_name("reserved_range"));
    assert_eq!(reported, [format!("{} / reserved_range 4..4: missing (present)", path.join(" / "))]);

    let names = Value::List(vec![Value::String("volume_condition".into())]);
    let reported = after(|file| set(at(file, &["message_type Volume"]), "reserved_name", names));
    assert_eq!(reported, ["message_type Volume / reserved_name volume_condition: not published (present)"]);
}

#[test]
fn changed_enumerations_are_reported() {
    let unit = &["message_type VolumeUsage", "enum_type Unit"];
    let path = unit.join(" / ");
    let reported = after(|file| drop_from(at(file, unit), "value", "INODES"));
    assert_eq!(reported, [format!("{path} / value INODES: missing (present)")]);

    let reported = after(|file| {
        let value = at(file, &[unit[0], unit[1], "value INODES"]);
        set(value, "number", Value::I32(3));
    });
    assert_eq!(reported, [format!("{path} / value INODES / number: 3, published as 2")]);

    let reported = after(|file| drop_from(file, "enum_type", "StorageHealthErrorType"));
    assert_eq!(reported, ["enum_type StorageHealthErrorType: missing (present)"]);
}

#[test]
fn changed_services_are_reported() {
    let delta = &["service SnapshotMetadata", "method GetMetadataDelta"];
    let path = delta.join(" / ");
    let reported = after(|file| at(file, delta).clear_field_by_name("server_streaming"));
    assert_eq!(reported, [format!("{path} / server_streaming: missing (true)")]);
    let reported = after(|file| set(at(file, delta), "client_streaming", Value::Bool(true)));
    assert_eq!(reported, [format!("{path} / client_streaming: not published (true)")]);
    let reported = after(|file| set(at(file, delta), "input_type", Value::String(".csi.v1.ProbeRequest".into())));
    assert_eq!(
        reported,
        [format!("{path} / input_type: .csi.v1.ProbeRequest, published as .csi.v1.GetMetadataDeltaRequest")]
    );

    let reported = after(|file| drop_from(at(file, &["service Node"]), "method", "NodeGetInfo"));
    assert_eq!(reported, ["service Node / method NodeGetInfo: missing (present)"]);
    let reported = after(|file| drop_from(file, "service", "GroupController"));
    assert_eq!(reported, ["service GroupController: missing (present)"]);
}

#[test]
fn missing_and_added_messages_are_reported() {
    let reported = after(|file| drop_from(file, "message_type", "BlockMetadata"));
    assert_eq!(reported, ["message_type BlockMetadata: missing (present)"]);
    let reported = after(|file| drop_from(at(file, &["message_type VolumeCapability"]), "nested_type", "BlockVolume"));
    assert_eq!(reported, ["message_type VolumeCapability / nested_type BlockVolume: missing (present)"]);

    let reported = after(|file| {
        let mut added = at(file, &["message_type BlockMetadata"]).clone();
        set(&mut added, "name", Value::String("ByteMetadata".into()));
        list_mut(file, "message_type").push(Value::Message(added));
    });
    assert_eq!(reported, ["message_type ByteMetadata: not published (present)"]);
    let reported = after(|file| drop_from(at(file, &["message_type BlockMetadata"]), "field", "size_bytes"));
    assert_eq!(reported, ["message_type BlockMetadata / field size_bytes: missing (present)"]);
}

#[test]
fn a_changed_file_is_reported() {
    let reported = after(|file| set(file, "package", Value::String("csi.v2".into())));
    assert_eq!(reported, ["package: csi.v2, published as csi.v1"]);
    let reported = after(|file| {
        list_mut(file, "dependency").retain(|name| name.as_str() != Some("google/protobuf/wrappers.proto"));
    });
    assert_eq!(reported, ["dependency google/protobuf/wrappers.proto: missing (present)"]);
}

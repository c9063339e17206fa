//! A compiled definition as facts that can be compared.
//!
//! A descriptor is walked by reflection, so that whatever a definition can say is among the facts, known to this code
//! or not. A fact has a path of field names of descriptor.proto, in which an element of a list goes by its name (or by
//! its bounds, for a reserved range) and not by its position: the order of a definition does not matter on the wire.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

/// Says of an element of a list that it is there.
const PRESENT: &str = "present";

/// Paths and values.
pub(crate) type Facts = BTreeMap<String, String>;

/// Takes the facts out of a `google.protobuf.FileDescriptorProto`.
pub(crate) fn of(file: &DynamicMessage) -> Facts {
    let mut file = file.clone();
    // Comments and positions.
    file.clear_field_by_name("source_code_info");
    let mut facts = Facts::new();
    message("", &file, &[], &mut facts);
    facts
}

/// Lists where two definitions differ. Of an element that one of them lacks, only the element is named and not each of
/// its facts.
pub(crate) fn differences(ours: &Facts, published: &Facts) -> Vec<String> {
    let mut found = absent(ours, published, "missing");
    found.extend(absent(published, ours, "not published"));
    found.extend(published.iter().filter_map(|(path, value)| {
        let own = ours.get(path).filter(|own| *own != value)?;
        Some(format!("{path}: {own}, published as {value}"))
    }));
    found.sort();
    found
}

fn absent(from: &Facts, of: &Facts, say: &str) -> Vec<String> {
    let mut whole: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for (path, value) in of {
        if from.contains_key(path) || whole.iter().any(|whole| path.starts_with(whole.as_str())) {
            continue;
        }
        if value == PRESENT {
            whole.push(format!("{path} / "));
        }
        found.push(format!("{path}: {say} ({value})"));
    }
    found
}

fn message(path: &str, message: &DynamicMessage, oneofs: &[String], facts: &mut Facts) {
    let own_oneofs = names(message, "oneof_decl");
    for (field, content) in message.fields() {
        let path = join(path, field.name());
        match content {
            Value::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    list_element(&path, index, element, &own_oneofs, facts);
                }
            }
            Value::Message(inner) => self::message(&path, inner, &own_oneofs, facts),
            scalar => {
                facts.insert(path, render(&field, scalar, oneofs));
            }
        }
    }
    for (extension, content) in message.extensions() {
        facts.insert(join(path, extension.json_name()), format!("{content:?}"));
    }
    for unknown in message.unknown_fields() {
        facts.insert(join(path, &format!("unknown {}", unknown.number())), format!("{unknown:?}"));
    }
}

fn list_element(path: &str, index: usize, element: &Value, oneofs: &[String], facts: &mut Facts) {
    match element {
        Value::Message(inner) => {
            let path = match (text(inner, "name"), bounds(inner)) {
                (Some(name), _) => format!("{path} {name}"),
                (None, Some(bounds)) => format!("{path} {bounds}"),
                (None, None) => format!("{path} {index}"),
            };
            facts.insert(path.clone(), PRESENT.into());
            message(&path, inner, oneofs, facts);
        }
        Value::String(name) => {
            facts.insert(format!("{path} {name}"), PRESENT.into());
        }
        other => {
            facts.insert(format!("{path} {index}"), format!("{other:?}"));
        }
    }
}

/// Writes a scalar as text: an enumeration by name, a oneof by name too, since its index is a position.
fn render(field: &FieldDescriptor, value: &Value, oneofs: &[String]) -> String {
    match (field.kind(), value) {
        (Kind::Enum(kind), Value::EnumNumber(number)) => {
            kind.get_value(*number).map_or_else(|| number.to_string(), |value| value.name().to_owned())
        }
        (_, Value::I32(index)) if field.name() == "oneof_index" => {
            usize::try_from(*index).ok().and_then(|index| oneofs.get(index)).cloned().unwrap_or(index.to_string())
        }
        (_, Value::String(text)) => text.clone(),
        (_, Value::I32(number)) => number.to_string(),
        (_, Value::Bool(yes)) => yes.to_string(),
        (_, other) => format!("{other:?}"),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path} / {name}") }
}

fn names(message: &DynamicMessage, list: &str) -> Vec<String> {
    let content = message.get_field_by_name(list);
    let elements = content.as_deref().and_then(Value::as_list).unwrap_or_default();
    elements.iter().filter_map(|element| text(element.as_message()?, "name")).collect()
}

fn text(message: &DynamicMessage, field: &str) -> Option<String> {
    message.get_field_by_name(field)?.as_str().map(ToOwned::to_owned)
}

fn bounds(message: &DynamicMessage) -> Option<String> {
    let bound = |name| message.get_field_by_name(name)?.as_i32();
    Some(format!("{}..{}", bound("start")?, bound("end")?))
}

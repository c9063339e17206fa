//! JSON that goes wrong in its structure: fields that are missing, twice, of another type, or far too large.

use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};

use super::EXTREMES;

/// One way in which a JSON text goes wrong. Nodes are counted in the order in which they are written.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// A node is replaced.
    Replace(Index, Value),
    /// A node is replaced by another one of the same text.
    Copy(Index, Index),
    /// A field or an item is taken away.
    Remove(Index),
    /// A field or an item comes along that nobody knows.
    Add(Index, Value),
}

impl Edit {
    /// Edits the text's value.
    pub(crate) fn apply(&self, root: &mut Value) {
        let nodes = count(root);
        match self {
            Self::Replace(at, value) => *node(root, at.index(nodes)) = value.clone(),
            Self::Copy(from, to) => {
                let value = node(root, from.index(nodes)).clone();
                *node(root, to.index(nodes)) = value;
            }
            Self::Remove(at) => match node(root, at.index(nodes)) {
                Value::Object(fields) if !fields.is_empty() => {
                    let name = fields.keys().nth(at.index(fields.len())).cloned().expect("it has that many");
                    fields.remove(&name);
                }
                Value::Array(items) if !items.is_empty() => drop(items.remove(at.index(items.len()))),
                other => *other = Value::Null,
            },
            Self::Add(at, value) => match node(root, at.index(nodes)) {
                Value::Object(fields) => drop(fields.insert("unheard-of".into(), value.clone())),
                Value::Array(items) => items.push(items.first().cloned().unwrap_or_else(|| value.clone())),
                other => *other = json!([other.clone(), value]),
            },
        }
    }
}

fn children(value: &mut Value) -> Box<dyn Iterator<Item = &mut Value> + '_> {
    match value {
        Value::Object(fields) => Box::new(fields.values_mut()),
        Value::Array(items) => Box::new(items.iter_mut()),
        _ => Box::new(std::iter::empty()),
    }
}

fn count(value: &mut Value) -> usize {
    1 + children(value).map(count).sum::<usize>()
}

fn node(value: &mut Value, at: usize) -> &mut Value {
    if at == 0 {
        return value;
    }
    let mut at = at - 1;
    for child in children(value) {
        let nodes = count(child);
        if at < nodes {
            return node(child, at);
        }
        at -= nodes;
    }
    unreachable!("nodes are counted the same way")
}

/// Edits a text's value in up to three ways, or leaves it alone.
pub(crate) fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<Index>;
    let value = prop_oneof![
        4 => prop::sample::select(EXTREMES.to_vec()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        2 => ".{0,40}".prop_map(Value::from),
        1 => "[0-9a-f]{1,70}".prop_map(Value::from),
        1 => Just(Value::from("9".repeat(1000))),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(json!([])),
        1 => Just(Value::Object(Map::new())),
        // Deeper than any parser should follow.
        1 => Just((0..200).fold(json!(0), |inner, _| json!([inner]))),
    ];
    let edit = prop_oneof![
        4 => (at(), value.clone()).prop_map(|(at, value)| Edit::Replace(at, value)),
        2 => (at(), at()).prop_map(|(from, to)| Edit::Copy(from, to)),
        1 => at().prop_map(Edit::Remove),
        1 => (at(), value).prop_map(|(at, value)| Edit::Add(at, value)),
    ];
    prop::collection::vec(edit, 0..=3)
}

/// Returns the edited text of a value.
pub(crate) fn edited(value: &Value, edits: &[Edit]) -> Vec<u8> {
    let mut value = value.clone();
    edits.iter().for_each(|edit| edit.apply(&mut value));
    serde_json::to_vec(&value).expect("a value has a text")
}

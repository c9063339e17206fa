//! What `kubectl varve` answers with: a table, a wider one, JSON or YAML, as kubectl has them.

use clap::ValueEnum;
use comfy_table::Table;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::output;

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table for people.
    #[default]
    Table,
    /// One with more columns.
    Wide,
    /// One JSON value, with sizes in bytes.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Form {
    /// Prints an answer in this form; `tables` makes what people read, and is told whether it may be wide.
    ///
    /// # Errors
    /// The standard output stream's.
    pub(crate) fn print<T: Serialize>(self, answer: &T, tables: impl FnOnce(&T, bool) -> String) -> anyhow::Result<()> {
        output::write(&match self {
            Self::Table => tables(answer, false),
            Self::Wide => tables(answer, true),
            Self::Json => serde_json::to_string_pretty(answer)?,
            Self::Yaml => yaml(answer)?,
        })
    }
}

/// Writes a value as a YAML document, without a line end at its end.
///
/// # Errors
/// Where it has no form in YAML.
pub(crate) fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(value)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Writes a table as text.
pub(crate) fn text(table: &Table) -> String {
    table.trim_fmt()
}

/// Writes how long ago a moment was, in two units at the most, as kubectl does.
pub(crate) fn age(moment: Option<Timestamp>, now: Timestamp) -> String {
    const UNITS: [(&str, i64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let Some(moment) = moment else { return "?".to_owned() };
    let seconds = now.duration_since(moment).max(SignedDuration::ZERO).as_secs();
    let first = UNITS.iter().position(|(_, length)| seconds >= *length).unwrap_or(UNITS.len() - 1);
    let (unit, length) = UNITS[first];
    let rest = UNITS.get(first + 1).filter(|_| seconds / length < 10);
    let rest = rest.map(|(unit, small)| (seconds % length / small, unit)).filter(|(count, _)| *count > 0);
    let rest = rest.map(|(count, unit)| format!("{count}{unit}")).unwrap_or_default();
    format!("{}{unit}{rest}", seconds / length)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_are_short() {
        let now = Timestamp::from_second(100 * 86_400).unwrap();
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (95, "1m35s"),
            (11 * 60 + 5, "11m"),
            (7260, "2h1m"),
            (3 * 86_400 + 7200, "3d2h"),
            (40 * 86_400, "40d"),
        ] {
            assert_eq!(age(Some(now - SignedDuration::from_secs(seconds)), now), text);
        }
        assert_eq!(age(None, now), "?");
    }

    #[test]
    fn yaml_says_the_same_as_json() {
        let value = json!({ "apiVersion": "v1", "metadata": { "name": "a", "labels": { "yes": "no", "number": "1e3" } },
            "empty": {}, "list": [{ "a": 1 }, "- b: c", "line\nbreak", "#x", null, true, ""], "time": "2026-11-22T01:02:03Z" });
        let text = yaml(&value).unwrap();
        assert!(text.starts_with("apiVersion: v1\n"), "{text}");
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
    }
}

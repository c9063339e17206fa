//! How long the caller waits for an answer: the `grpc-timeout` header (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Returns how long a call may wait for something that it can also answer without: at most `longest`, and never more than
/// half of what the caller grants, so that the answer still reaches it.
pub(crate) fn wait(metadata: &MetadataMap, longest: Duration) -> Duration {
    granted(metadata).map_or(longest, |granted| longest.min(granted / 2))
}

/// Reads the header: up to eight digits and a unit. One that cannot be read is as good as none.
fn granted(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.checked_mul(3600)?),
        "M" => Duration::from_secs(count.checked_mul(60)?),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_s_deadline_bounds_the_wait() {
        let longest = Duration::from_secs(2);
        let table = [
            ("1S", Duration::from_millis(500)),
            ("1500m", Duration::from_millis(750)),
            ("10S", longest),
            ("2M", longest),
            ("1H", longest),
            ("100u", Duration::from_micros(50)),
            ("", longest),
            ("S", longest),
            ("soon", longest),
            ("123456789S", longest),
        ];
        for (text, expected) in table {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(wait(&metadata, longest), expected, "{text:?}");
        }
        assert_eq!(wait(&MetadataMap::new(), longest), longest);
    }
}

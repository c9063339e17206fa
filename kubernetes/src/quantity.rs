//! Quantities of bytes, as Kubernetes writes them (`k8s.io/apimachinery/pkg/api/resource`): `10Gi`, `1.5G`, `1e9`, `4096`.

/// The suffixes, each with the bytes that it stands for.
const SUFFIXES: [(&str, u64); 13] = [
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
];

/// Reads a quantity as bytes, rounded up to a whole one; `None` where it is none, is negative, or is more than 64 bits hold.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let number = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    // What is beyond nine digits is less than a byte of any quantity that there is.
    let fraction = &fraction[..fraction.len().min(9)];
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let factor = match SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        Some((_, factor)) => u128::from(*factor),
        None if suffix == "m" => return u64::try_from(digits.div_ceil(power(fraction.len())?.checked_mul(1000)?)).ok(),
        None => power(suffix.strip_prefix(['e', 'E'])?.parse().ok()?)?,
    };
    u64::try_from(digits.checked_mul(factor)?.div_ceil(power(fraction.len())?)).ok()
}

fn power(exponent: usize) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

/// Writes bytes as a quantity, exactly, with the largest binary suffix.
#[must_use]
pub fn write(bytes: u64) -> String {
    let binary = SUFFIXES[7..].iter().rev().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    binary.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("+5k", 5000),
            ("10Gi", 10 << 30),
            ("1536Mi", 1536 << 20),
            ("1.5Gi", 1536 << 20),
            (".5Ki", 512),
            ("2.Ki", 2048),
            ("500M", 500_000_000),
            ("1e9", 1_000_000_000),
            ("1E3", 1000),
            ("2E", 2_000_000_000_000_000_000),
            ("1500m", 2),
            ("0.0001Ki", 1),
            ("15Ei", 15 << 60),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_of_bytes_is_none() {
        for text in
            ["", ".", "Gi", "-1Gi", "1.2.3", "10GiB", "10 Gi", "ten", "16Ei", "1e99", "1e", "99999999999999999999Gi"]
        {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_exact_and_short() {
        for (number, text) in [
            (0, "0"),
            (1000, "1000"),
            (4096, "4Ki"),
            (10 << 30, "10Gi"),
            (1536 << 20, "1536Mi"),
            ((10 << 30) + 1, "10737418241"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(write(number), text);
            assert_eq!(bytes(text), Some(number));
        }
    }
}

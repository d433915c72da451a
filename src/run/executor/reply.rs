//! Values in the replies of services, all of them untrusted until they are checked here.

use serde_json::Value;

use super::text::{checked_id, printable, shortened};
use crate::run::inventory::is_sha256_hex;

/// Returns what a value is, for an error.
fn shown(value: &Value) -> String {
    shortened(&printable(value.to_string().as_bytes()))
}

/// Returns a text.
///
/// # Errors
/// It is something else.
pub fn text<'a>(what: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{what} is no text but {}", shown(value)))
}

/// Returns an identity, checked by [`checked_id`]; a whole number counts as one.
///
/// # Errors
/// What is wrong with it.
pub fn id(what: &str, value: &Value) -> Result<String, String> {
    match value.as_u64() {
        Some(number) => Ok(number.to_string()),
        None => checked_id(what, text(what, value)?),
    }
}

/// Returns a whole number, which may be written as a text with `_` between its digits.
///
/// # Errors
/// It is something else, or above 2^64 − 1.
pub fn number(what: &str, value: &Value) -> Result<u64, String> {
    let wrong = || format!("{what} is no whole number below 2^64 but {}", shown(value));
    let Value::String(digits) = value else { return value.as_u64().ok_or_else(wrong) };
    let framed = digits.starts_with('_') || digits.ends_with('_');
    let digits: String = digits.chars().filter(|digit| *digit != '_').collect();
    let only_digits = !framed && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| only_digits).ok_or_else(wrong)
}

/// Returns a SHA-256 as 64 lowercase hexadecimal digits; it may be given with `0x` or in capitals.
///
/// # Errors
/// It is something else.
pub fn sha256(what: &str, value: &Value) -> Result<String, String> {
    let text = text(what, value)?;
    let hash = text.strip_prefix("0x").unwrap_or(text).to_ascii_lowercase();
    if is_sha256_hex(&hash) {
        Ok(hash)
    } else {
        Err(format!("{what} is no SHA-256: {}", shown(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_whole_and_may_be_written_in_groups() {
        for (value, expected) in [
            (json!(0), 0),
            (json!("1_000"), 1000),
            (json!("18_446_744_073_709_551_615"), u64::MAX),
            (json!(u64::MAX), u64::MAX),
        ] {
            assert_eq!(number("size", &value), Ok(expected));
        }
        let too_large = "18446744073709551616";
        for wrong in [
            json!(-1),
            json!(1.5),
            json!(null),
            json!(""),
            json!("_1"),
            json!("1_"),
            json!("+1"),
            json!("1 000"),
            json!("0x10"),
            json!("１"),
            json!(too_large),
        ] {
            let error = number("size", &wrong).unwrap_err();
            assert!(error.starts_with("size is no whole number"), "{error}");
        }
    }

    #[test]
    fn hashes_lose_their_prefix_and_nothing_else() {
        let hash = "0123456789abcdef".repeat(4);
        for written in [hash.clone(), format!("0x{hash}"), hash.to_uppercase()] {
            assert_eq!(sha256("hash", &json!(written)).as_ref(), Ok(&hash));
        }
        for wrong in
            [json!(&hash[1..]), json!(format!("0x0x{hash}")), json!(7), json!("g".repeat(64))]
        {
            assert!(sha256("hash", &wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn identities_are_checked_whatever_they_come_from() {
        assert_eq!(id("snapshot", &json!("abc")), Ok("abc".into()));
        assert_eq!(id("snapshot", &json!(17)), Ok("17".into()));
        for wrong in
            [json!("../x"), json!("-x"), json!(null), json!({}), json!(-1), json!("a\u{0}")]
        {
            assert!(id("snapshot", &wrong).is_err(), "{wrong}");
        }
    }
}

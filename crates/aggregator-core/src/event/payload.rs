//! Payloads: JSON text, kept as the publisher spelled it but for white space.

use std::borrow::Cow;

use memchr::memchr2;
use xxhash_rust::xxh3::xxh3_128;

use crate::InvalidField;

/// How deep a payload may be nested unless the caller says otherwise. Inside the three levels of
/// `{"events":[{"payload":…}]}` it stays within the 127 that the strictest of the common JSON parsers
/// (serde_json) takes.
pub const DEFAULT_PAYLOAD_DEPTH: usize = 124;

/// What is kept of a purged payload so that a repeat can still be told from a conflict: the XXH3-128
/// of its compact form, big-endian.
pub fn digest(payload: &str) -> [u8; 16] {
    xxh3_128(payload.as_bytes()).to_be_bytes()
}

/// What a byte outside of strings means: for most, nothing.
const MATTERS: [bool; 256] = {
    let mut matters = [false; 256];
    let bytes = b"\"{}[] \t\n\r";
    let mut at = 0;
    while at < bytes.len() {
        matters[bytes[at] as usize] = true;
        at += 1;
    }
    matters
};

/// Takes the insignificant white space out of `json`, which must be JSON already. Key order and the
/// spelling of numbers and strings stay. Borrows where there is nothing to take out.
pub(super) fn compact(json: &str, max_depth: usize) -> Result<Cow<'_, str>, InvalidField> {
    let bytes = json.as_bytes();
    let mut compacted: Option<String> = None;
    let (mut depth, mut copied, mut at) = (0_usize, 0, 0);
    while at < bytes.len() {
        if !MATTERS[usize::from(bytes[at])] {
            at += 1;
            continue;
        }
        match bytes[at] {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > max_depth {
                    return Err(InvalidField::new(
                        "payload",
                        format!("is nested deeper than the {max_depth} levels allowed"),
                    ));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => {
                compacted
                    .get_or_insert_with(|| String::with_capacity(json.len()))
                    .push_str(&json[copied..at]);
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(match compacted {
        None => Cow::Borrowed(json),
        Some(mut text) => {
            text.push_str(&json[copied..]);
            Cow::Owned(text)
        }
    })
}

/// The position after the string literal that opens at `open`.
fn string_end(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_insignificant_white_space_goes() {
        let sent = "{ \"a b\" : [ 1 , 2.50e+1 ,\n\"\\\" \\\\\" ],\t\"c\":null }\r";
        assert_eq!(compact(sent, 9).unwrap(), "{\"a b\":[1,2.50e+1,\"\\\" \\\\\"],\"c\":null}");
        assert!(matches!(compact("{\"a b\":1}", 9).unwrap(), Cow::Borrowed(_)));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(compact(&nested(9), 9).is_ok());
        assert!(compact(&nested(10), 9).is_err());
        assert!(compact(&"[]".repeat(100), 1).is_ok(), "breadth is not depth");
        assert!(compact("\"[[[[[[[[[[[[\"", 1).is_ok(), "brackets in a string are not depth");
    }

    proptest! {
        #[test]
        fn a_pretty_printed_value_compacts_to_its_compact_print(
            strings in prop::collection::vec(".{0,12}", 0..6), numbers in prop::collection::vec(any::<f64>(), 0..6),
        ) {
            let value = serde_json::json!({"s": strings, "n": {"deep": [numbers, {}, []]}, "b": [true, null]});
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty, 9).unwrap(), value.to_string());
        }
    }
}

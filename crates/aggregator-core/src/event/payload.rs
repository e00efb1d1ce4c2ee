//! Payloads: JSON text, kept as the publisher spelled it except for white space.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use xxhash_rust::xxh3::xxh3_128;

use crate::InvalidField;

/// How deep a payload may be nested unless the caller says otherwise. Inside the three levels of
/// `{"events":[{"payload":…}]}` it stays within the 127 that the strictest of the common JSON parsers
/// (serde_json) takes.
pub const DEFAULT_PAYLOAD_DEPTH: usize = 124;

/// What becomes of a payload that has half a surrogate pair, `"\ud83d"` for example.
///
/// JSON's grammar allows it, but it is not a character (RFC 8259, section 8.2). Many parsers refuse the whole
/// document, so one such payload makes a whole page of events unreadable for them. Truncated strings of JavaScript
/// often have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoneSurrogates {
    /// Its event is refused.
    #[default]
    Refuse,
    /// It is kept as it is spelled.
    Keep,
}

/// What is kept of a purged payload so that a repeat can still be told from a conflict: the XXH3-128
/// of its compact form, big-endian.
pub fn digest(payload: &str) -> [u8; 16] {
    xxh3_128(payload.as_bytes()).to_be_bytes()
}

/// What an erased event has in place of its payload.
///
/// It is reserved: an event that is stored with it equals every repeat of it, whatever its payload, also if a publisher
/// sent it.
pub const ERASED_PAYLOAD: &str = r#"{"erased":true}"#;

/// Whether an event with the payload `sent` repeats the stored one, or is a conflict.
pub fn equals_payload(stored: &str, sent: &str) -> bool {
    stored == sent || stored == ERASED_PAYLOAD
}

/// The same where only the [`digest`] of the stored payload is known.
pub fn equals_digest(stored: [u8; 16], sent: &str) -> bool {
    stored == digest(sent) || is_digest_of_erased(stored)
}

/// Whether a stub is that of an erased event.
pub fn is_digest_of_erased(stored: [u8; 16]) -> bool {
    stored == digest(ERASED_PAYLOAD)
}

/// Whether a byte matters outside of strings: quotes, brackets and white space do.
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
pub(super) fn compact(
    json: &str,
    max_depth: usize,
    lone_surrogates: LoneSurrogates,
) -> Result<Cow<'_, str>, InvalidField> {
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
                let Literal { end, has_unicode_escape } = literal(bytes, at);
                if has_unicode_escape && lone_surrogates == LoneSurrogates::Refuse {
                    refuse_lone_surrogate(json, at, end)?;
                }
                at = end;
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

/// A string as it is written.
struct Literal {
    /// The position after it.
    end: usize,
    /// Whether it has a `\u`.
    has_unicode_escape: bool,
}

/// The string literal that opens at `open`.
fn literal(bytes: &[u8], open: usize) -> Literal {
    let (mut at, mut has_unicode_escape) = (open + 1, false);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if bytes[at] == b'"' {
            return Literal { end: at + 1, has_unicode_escape };
        }
        has_unicode_escape |= bytes.get(at + 1) == Some(&b'u');
        at += 2;
    }
    Literal { end: bytes.len(), has_unicode_escape }
}

/// Looks through the string literal at `json[open..end]`.
fn refuse_lone_surrogate(json: &str, open: usize, end: usize) -> Result<(), InvalidField> {
    let bytes = &json.as_bytes()[..end];
    let mut at = open;
    while let Some(found) = memchr(b'\\', &bytes[at..]) {
        at += found;
        at += match (code_unit(bytes, at), code_unit(bytes, at + ESCAPE_BYTES)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 2 * ESCAPE_BYTES,
            (Some(0xD800..=0xDFFF), _) => {
                let escape = &json[at..at + ESCAPE_BYTES];
                return Err(InvalidField::new(
                    "payload",
                    format!(
                        "has half a surrogate pair, {escape} at byte {at}, which is no character: send the whole \
                         pair, or \\ufffd in its place"
                    ),
                ));
            }
            (Some(_), _) => ESCAPE_BYTES,
            (None, _) => 2,
        };
    }
    Ok(())
}

/// The length of `\uXXXX`.
const ESCAPE_BYTES: usize = 6;

/// The UTF-16 code unit that `\uXXXX` at `at` stands for, if there is one.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compact(json: &str, max_depth: usize) -> Result<Cow<'_, str>, InvalidField> {
        super::compact(json, max_depth, LoneSurrogates::Refuse)
    }

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

    #[test]
    fn half_a_surrogate_pair_is_found_where_it_is_one() {
        for (half, escape, at) in [
            (r#""\ud800""#, r"\ud800", 1),
            (r#"{"a":"\\\uDFFF"}"#, r"\uDFFF", 8),
            (r#"{"\uDBFFx":1}"#, r"\uDBFF", 2),
            (r#"["\ud83d\ude00","\ud83d\ud83d\ude00"]"#, r"\ud83d", 17),
            (r#""\ud83d\n\ude00""#, r"\ud83d", 1),
            (r#""\ud83d","\ude00""#, r"\ud83d", 1),
            (r#""ä\ude00\ud83d""#, r"\ude00", 3),
        ] {
            let fault = compact(half, 9).unwrap_err();
            assert!(fault.reason.contains(&format!("{escape} at byte {at},")), "{half}: {fault}");
            assert_eq!(super::compact(half, 9, LoneSurrogates::Keep).unwrap(), half);
        }
        for whole in
            [r#""\ud83d\ude00\uDBFF\uDFFF""#, r#""\\ud83d""#, r#""\u0041\ud7ff\ue000\"""#, r#""ud83d""#]
        {
            assert_eq!(compact(whole, 9).unwrap(), whole);
        }
    }

    proptest! {
        #[test]
        fn a_string_is_refused_where_a_strict_parser_refuses_it(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(r"\ud800".to_owned()), Just(r"\udBff".to_owned()), Just(r"\uDC00".to_owned()),
                    Just(r"\udfff".to_owned()), Just(r"\\".to_owned()), Just(r#"\""#.to_owned()),
                    Just("u".to_owned()), Just("ä".to_owned()), "[a-f0-9]{1,4}", r"\\u[0-9a-fA-F]{4}",
                ],
                0..8,
            ),
        ) {
            let text = format!("[\"{}\"]", parts.concat());
            let strict = serde_json::from_str::<Vec<String>>(&text).is_ok();
            prop_assert_eq!(compact(&text, 1).is_ok(), strict, "{}", text);
        }

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

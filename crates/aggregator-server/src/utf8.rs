//! Texts in UTF-8 that come from outside.

/// The bytes that some programs write before a text in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

//! Text as HTML and SVG.

/// The text with the characters replaced that mean something in HTML and SVG, also within attributes in either quotes.
///
/// Control characters become U+FFFD: most are no characters of HTML, and some of Unicode's turn the text around them.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || turns_text(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Whether it sets the direction of the text behind it.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            escape("<script src=\"//x\">alert('1 & 2')</script>"),
            "&lt;script src=&quot;//x&quot;&gt;alert(&#39;1 &amp; 2&#39;)&lt;/script&gt;"
        );
        assert_eq!(escape("Zoë ✓\n\tok"), "Zoë ✓\n\tok");
    }

    #[test]
    fn what_is_no_character_or_turns_a_text_around_is_replaced() {
        assert_eq!(escape("a\0b\u{1b}[31m\r"), "a\u{fffd}b\u{fffd}[31m\u{fffd}");
        assert_eq!(escape("exe.\u{202e}gnp"), "exe.\u{fffd}gnp");
    }
}

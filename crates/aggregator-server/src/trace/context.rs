//! Where a span stands: its trace, its own id, and how a client names both (W3C Trace Context, level 1: `traceparent`).

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use hyper::HeaderMap;

const HEADER: &str = "traceparent";

/// Names a span, for ever and everywhere. An id is never zero: the standard calls that invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanContext {
    pub(crate) trace: NonZeroU128,
    pub(crate) span: NonZeroU64,
}

impl SpanContext {
    /// A new span in a new trace.
    pub(crate) fn root() -> Self {
        Self { trace: rand::random(), span: rand::random() }
    }

    /// A new span in the same trace.
    pub(crate) fn child(self) -> Self {
        Self { span: rand::random(), ..self }
    }
}

/// As a header names it, with the flag that says that the span is kept.
impl fmt::Display for SpanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

/// The span of a client, from the header of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) context: SpanContext,
    /// Whether the client keeps its span.
    pub(crate) is_sampled: bool,
}

impl TraceParent {
    /// `None` if there is no such header, more than one, or one that breaks a rule of the standard.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut sent = headers.get_all(HEADER).iter();
        match (sent.next(), sent.next()) {
            (Some(header), None) => Self::parse(header.as_bytes()),
            _ => None,
        }
    }

    /// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`, in small letters only. A version that this one does not know
    /// begins in the same way, and may go on behind a further dash.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (head, rest) = text.split_at_checked(55)?;
        let has_dashes = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        let is_whole = match hex(&head[..2])? {
            0 => rest.is_empty(),
            0xff => false,
            _ => matches!(rest, [] | [b'-', ..]),
        };
        let trace = NonZeroU128::new(hex(&head[3..35])?)?;
        let span = NonZeroU64::new(u64::try_from(hex(&head[36..52])?).ok()?)?;
        let is_sampled = hex(&head[53..])? & 1 == 1;
        (has_dashes && is_whole).then_some(Self { context: SpanContext { trace, span }, is_sampled })
    }
}

/// The number that up to 32 small hexadecimal digits write.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn a_good_header_is_read_and_written_as_it_came() {
        let parent = parse(SENT).unwrap();
        assert!(parent.is_sampled);
        assert_eq!(parent.context.trace.get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(parent.context.span.get(), 0x00f0_67aa_0ba9_02b7);
        assert_eq!(parent.context.to_string(), SENT);
    }

    #[test]
    fn the_lowest_flag_alone_says_whether_the_client_keeps_its_span() {
        for (flags, is_sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("fe", false)] {
            let parent = parse(&format!("{}{flags}", &SENT[..53])).unwrap();
            assert_eq!(parent.is_sampled, is_sampled, "{flags}");
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        for good in ["01", "cc", "fe"].map(|version| format!("{version}{}", &SENT[2..])) {
            let more = format!("{good}-what-ever");
            assert_eq!(parse(&good), parse(SENT));
            assert_eq!(parse(&more), parse(SENT));
            assert_eq!(parse(&format!("{good}.what-ever")), None);
        }
    }

    #[test]
    fn what_breaks_a_rule_is_no_parent() {
        let zero_trace = SENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = SENT.replace("00f067aa0ba902b7", &"0".repeat(16));
        let (more, other_dash) = (format!("{SENT}-"), SENT.replacen('-', "_", 1));
        for bad in [
            "",
            "00",
            &SENT[..54],
            &SENT[1..],
            &SENT.to_uppercase(),
            &SENT.replace('b', "g"),
            &SENT.replace("-01", "-0x"),
            &SENT.replace("-01", "-+1"),
            &format!("ff{}", &SENT[2..]),
            &format!("0g{}", &SENT[2..]),
            &format!(" {SENT}"),
            &zero_trace,
            &zero_span,
            &more,
            &other_dash,
            &SENT.replacen("-01", "_01", 1),
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(HEADER, HeaderValue::from_static(SENT));
        assert_eq!(TraceParent::of(&headers), parse(SENT));
        headers.append(HEADER, HeaderValue::from_static(SENT));
        assert_eq!(TraceParent::of(&headers), None);
    }

    #[test]
    fn new_spans_differ_and_a_child_stays_in_its_trace() {
        let (first, second) = (SpanContext::root(), SpanContext::root());
        assert!(first.trace != second.trace && first.span != second.span);
        let child = first.child();
        assert!(child.trace == first.trace && child.span != first.span);
    }
}

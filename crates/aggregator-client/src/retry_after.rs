//! The `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

/// How long the server asks to stay away. A header that cannot be read counts as none.
///
/// A date is compared with the `Date` of the same reply, so that it does not matter how far the two clocks are apart.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = headers.get(DATE).and_then(date).unwrap_or(now);
    Some(until.duration_since(now).unwrap_or(Duration::ZERO))
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const SOON: &str = "Sun, 06 Nov 1994 08:50:07 GMT";

    fn read(value: &'static str, date: Option<&'static str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_static(date));
        }
        retry_after(&headers, httpdate::parse_http_date(NOW).unwrap())
    }

    #[test]
    fn seconds_and_dates_are_read_and_nothing_else() {
        assert_eq!(read("3", None), Some(Duration::from_secs(3)));
        assert_eq!(read(" 0 ", None), Some(Duration::ZERO));
        assert_eq!(read(SOON, None), Some(Duration::from_secs(30)));
        assert_eq!(read("-1", None), None);
        assert_eq!(read("soon", None), None);
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::now()), None);
    }

    #[test]
    fn a_date_is_measured_by_the_clock_of_its_server() {
        assert_eq!(read(SOON, Some("Sun, 06 Nov 1994 08:50:05 GMT")), Some(Duration::from_secs(2)));
        assert_eq!(read(NOW, Some(SOON)), Some(Duration::ZERO), "a time that is over");
    }
}

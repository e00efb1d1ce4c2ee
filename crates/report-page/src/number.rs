//! Numbers as people read them.

/// 160000 as 160,000.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number in three digits, as a tick of an axis has it. 1500 is 1.5k.
#[must_use]
pub fn short(number: f64) -> String {
    if number.is_nan() {
        return "nothing".to_owned();
    }
    let size = number.abs();
    let (value, unit) = match size {
        1e9.. => (number / 1e9, "G"),
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Milliseconds with three digits, and seconds where they are many.
#[must_use]
pub fn milliseconds(ms: f64) -> String {
    match ms {
        10_000.0.. => format!("{:.1} s", ms / 1e3),
        1_000.0.. => format!("{:.2} s", ms / 1e3),
        100.0.. => format!("{ms:.0} ms"),
        10.0.. => format!("{ms:.1} ms"),
        _ => format!("{ms:.2} ms"),
    }
}

/// A span of time: 250 ms, 12.5 s, 3 min 20 s, 2 h 5 min.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let (minutes, hours) = ((seconds / 60.0).floor(), (seconds / 3600.0).floor());
    match seconds {
        3600.0.. => format!("{hours:.0} h {:.0} min", (seconds / 60.0 - hours * 60.0).floor()),
        120.0.. => format!("{minutes:.0} min {:.0} s", (seconds - minutes * 60.0).floor()),
        10.0.. => format!("{seconds:.1} s"),
        1.0.. => format!("{seconds:.2} s"),
        _ => format!("{:.0} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!(
            [0.0, 0.05, 0.5, 2.5, 20.0, 1_500.0, 25_000.0, 1e6, 2.5e9].map(short),
            ["0", "0.05", "0.5", "2.5", "20", "1.5k", "25k", "1M", "2.5G"]
        );
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!(
            [0.5, 12.34, 123.4, 1_234.0].map(milliseconds),
            ["0.50 ms", "12.3 ms", "123 ms", "1.23 s"]
        );
        assert_eq!(
            [0.25, 2.5, 12.5, 200.0, 7_500.0].map(duration),
            ["250 ms", "2.50 s", "12.5 s", "3 min 20 s", "2 h 5 min"]
        );
    }
}

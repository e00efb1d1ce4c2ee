//! Where values lie on an axis, and which of them are written beside it.

use super::Scale;
use crate::number::short;

/// A scale with both its ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Range {
    /// A range that has room for all values. `round` makes its ends values that are easy to read.
    pub(super) fn of(scale: Scale, values: impl Iterator<Item = f64>, round: bool) -> Option<Self> {
        let values = values.filter(|value| match scale {
            Scale::Linear => value.is_finite(),
            Scale::Log => value.is_finite() && *value > 0.0,
            Scale::Nines => (0.0..1.0).contains(value),
        });
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            (least, most) = (least.min(value), most.max(value));
        }
        if least > most {
            return None;
        }
        let (from, to) = match scale {
            // Also where all is zero, there is an axis.
            Scale::Linear if most <= 0.0 => (0.0, 1.0),
            Scale::Linear if round => {
                let step = step(most, 4.0);
                (0.0, (most / step).ceil() * step)
            }
            Scale::Linear => (0.0, most),
            Scale::Log => {
                let (from, to) = (readable_below(least), readable_above(most));
                (from, if to > from { to } else { from * 10.0 })
            }
            Scale::Nines => (0.0, most.max(0.9)),
        };
        Some(Self { scale, from, to })
    }

    /// Where the value lies, from 0 to 1; `None` if it has no place.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let along = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Nines => -(1.0 - value).log10(),
        };
        let place = (along(value) - along(self.from)) / (along(self.to) - along(self.from));
        place.is_finite().then(|| place.clamp(0.0, 1.0))
    }

    /// Values within the range, about as many, and how they are written.
    pub(super) fn ticks(&self, about: f64) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.to, about);
                let values = (0..).map(|n| f64::from(n) * step);
                let within = values.take_while(|value| *value <= self.to * 1.000_001);
                within.map(|value| (value, short(value))).collect()
            }
            Scale::Log => self.log_ticks(about),
            Scale::Nines => {
                let nines = (0..=9).map(|n| 1.0 - 0.1_f64.powi(n));
                let within = nines.take_while(|value| *value <= self.to + 1e-12);
                within.map(|value| (value, percent(value))).collect()
            }
        }
    }

    fn log_ticks(&self, about: f64) -> Vec<(f64, String)> {
        let (from, to) = (self.from.log10(), self.to.log10());
        let decades = to - from;
        let factors: &[f64] = if decades * 3.0 <= about * 1.6 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let each = (decades / about).ceil().max(1.0);
        let mut ticks = Vec::new();
        let mut exponent = from.floor();
        while exponent <= to {
            for factor in factors {
                let value = factor * 10_f64.powf(exponent);
                if (self.from * 0.999..=self.to * 1.001).contains(&value) {
                    ticks.push((value, short(value)));
                }
            }
            exponent += each;
        }
        ticks
    }
}

/// A step of 1, 2 or 5 times a power of ten, of which about so many make the length.
fn step(length: f64, about: f64) -> f64 {
    let raw = length / about;
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The largest of 1, 2 and 5 times a power of ten that is not above the value.
fn readable_below(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [5.0, 2.0].into_iter().find(|factor| factor * power <= value * 1.001).unwrap_or(1.0) * power
}

fn readable_above(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= value * 0.999).unwrap_or(10.0) * power
}

/// 0.999 as 99.9 %.
fn percent(share: f64) -> String {
    let text = format!("{:.7}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, values: &[f64], about: f64) -> Vec<String> {
        let range = Range::of(scale, values.iter().copied(), true).unwrap();
        range.ticks(about).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_as_many_as_there_is_room_for() {
        assert_eq!(ticks(Scale::Linear, &[3.0, 17.0], 4.0), ["0", "5", "10", "15", "20"]);
        assert_eq!(ticks(Scale::Linear, &[0.0], 4.0), ["0", "0.5", "1"]);
        assert_eq!(ticks(Scale::Log, &[0.3, 40.0], 6.0), ["0.2", "0.5", "1", "2", "5", "10", "20", "50"]);
        assert_eq!(ticks(Scale::Log, &[0.01, 90_000.0], 6.0), ["0.01", "1", "100", "10k"]);
        assert_eq!(ticks(Scale::Nines, &[0.5, 0.9995], 6.0), ["0%", "90%", "99%", "99.9%"]);
    }

    #[test]
    fn a_range_has_room_for_all_its_values_and_none_for_what_has_no_place() {
        let range = Range::of(Scale::Log, [f64::NAN, -1.0, 0.0, 3.0, 30.0].into_iter(), true).unwrap();
        assert_eq!((range.from, range.to), (2.0, 50.0));
        assert_eq!(
            (range.place(2.0), range.place(50.0), range.place(10.0)),
            (Some(0.0), Some(1.0), Some(0.5))
        );
        assert_eq!(range.place(0.0), None);
        assert!(Range::of(Scale::Log, [0.0].into_iter(), true).is_none());
        assert!(Range::of(Scale::Linear, std::iter::empty(), true).is_none());
        let lonely = Range::of(Scale::Log, [5.0].into_iter(), true).unwrap();
        assert!(lonely.to > lonely.from);
    }
}

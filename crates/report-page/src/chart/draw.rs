//! A plot as a figure of a page. Colours and sizes of text are the page's.

use std::fmt::Write as _;

use super::scale::Range;
use super::{Axis, Bar, Chart, Shape};
use crate::escape::escape;
use crate::number::short;

/// So small that texts stay readable on a phone, where the whole is made narrower.
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = HEIGHT - 38.0;

/// About how many values are written beside an axis.
const X_TICKS: f64 = 6.0;
const Y_TICKS: f64 = 4.0;

/// Colours, which then begin again. Each has a pattern of dashes of its own.
const COLOURS: usize = 10;

/// Names of marks that are near each other stand in different lines.
const MARK_LINES: usize = 3;
const LINE_HEIGHT: f64 = 13.0;

struct Canvas {
    x: Range,
    y: Range,
    svg: String,
}

impl Chart {
    /// The figure number `number` of a page.
    pub(crate) fn figure(&self, number: usize) -> String {
        let (title, caption) = (escape(&self.title), escape(&self.caption));
        let id = format!("chart-{number}");
        format!(
            "<figure class=\"chart\">\n<figcaption id=\"{id}-title\">{title}</figcaption>\n{legend}\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-title\" \
             aria-describedby=\"{id}-text\"><title>{title}</title>\n{plot}</svg>\n\
             <p id=\"{id}-text\">{caption}</p>\n</figure>\n",
            legend = self.legend(),
            plot = self.plot(),
        )
    }

    /// One series needs none: the axis says what it is.
    fn legend(&self) -> String {
        if self.series.len() < 2 {
            return String::new();
        }
        let mut text = "<ul class=\"legend\">".to_owned();
        for (place, series) in self.series.iter().enumerate() {
            let _ = write!(
                text,
                "<li><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"line s{}\" d=\"M1 4H21\"/></svg>{}</li>",
                place % COLOURS,
                escape(&series.name)
            );
        }
        text + "</ul>\n"
    }

    fn plot(&self) -> String {
        let marks = self.marks.iter().map(|mark| mark.at);
        let x = Range::of(self.x.scale, self.points().map(|point| point.0).chain(marks), false);
        let y = Range::of(self.y.scale, self.points().map(|point| point.1), true);
        let (Some(x), Some(y)) = (x, y) else {
            let middle = WIDTH / 2.0;
            return format!(
                "<text class=\"nothing\" x=\"{middle}\" y=\"{}\">There is nothing to draw</text>\n",
                HEIGHT / 2.0
            );
        };
        let mut canvas = Canvas { x, y, svg: String::new() };
        canvas.axes(&self.x, &self.y);
        for (place, series) in self.series.iter().enumerate() {
            let colour = place % COLOURS;
            match &series.shape {
                Shape::Line(points) => canvas.line(points, colour),
                Shape::Bars(bars) => canvas.bars(bars, colour, &self.x.title, &series.name),
            }
        }
        canvas.hovers(self);
        for (place, mark) in self.marks.iter().enumerate() {
            canvas.mark(mark.at, &mark.name, place % MARK_LINES);
        }
        canvas.svg
    }
}

impl Canvas {
    fn x(&self, value: f64) -> Option<f64> {
        self.x.place(value).map(|place| LEFT + place * (RIGHT - LEFT))
    }

    fn y(&self, value: f64) -> Option<f64> {
        self.y.place(value).map(|place| BOTTOM - place * (BOTTOM - TOP))
    }

    fn axes(&mut self, x: &Axis, y: &Axis) {
        for (value, label) in self.y.ticks(Y_TICKS) {
            let Some(at) = self.y(value) else { continue };
            let _ = writeln!(
                self.svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/><text class=\"y\" x=\"{}\" y=\"{:.1}\">{label}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        for (value, label) in self.x.ticks(X_TICKS) {
            let Some(at) = self.x(value) else { continue };
            let _ = writeln!(
                self.svg,
                "<path class=\"axis\" d=\"M{at:.1} {BOTTOM}v4\"/><text class=\"x\" x=\"{at:.1}\" y=\"{}\">{label}</text>",
                BOTTOM + 16.0
            );
        }
        let _ = writeln!(
            self.svg,
            "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/>\
             <text class=\"title\" x=\"2\" y=\"12\">{}</text>\
             <text class=\"title end\" x=\"{RIGHT}\" y=\"{}\">{}</text>",
            escape(&y.title),
            HEIGHT - 6.0,
            escape(&x.title)
        );
    }

    /// A point with nothing at either side is drawn as a line of no length, whose round ends make it a dot.
    fn line(&mut self, points: &[(f64, f64)], colour: usize) {
        let mut path = String::new();
        let mut after_gap = true;
        for &(x, y) in points {
            let (Some(at_x), Some(at_y)) = (self.x(x), self.y(y)) else {
                after_gap = true;
                continue;
            };
            if after_gap {
                let _ = write!(path, "M{at_x:.1} {at_y:.1}");
            }
            let _ = write!(path, "L{at_x:.1} {at_y:.1}");
            after_gap = false;
        }
        if !path.is_empty() {
            let _ = writeln!(self.svg, "<path class=\"line s{colour}\" d=\"{path}\"/>");
        }
    }

    /// The values of all lines, for who points at them: a strip for each point of the first line. Lines that do not share
    /// their points have none.
    fn hovers(&mut self, chart: &Chart) {
        let lines: Option<Vec<_>> =
            chart.series.iter().map(|series| Some((&series.name, series.points()?))).collect();
        let Some((first, lines)) = lines.as_deref().and_then(|lines| Some((lines.first()?.1, lines))) else {
            return;
        };
        let share = |points: &[(f64, f64)]| {
            points.len() == first.len() && points.iter().zip(first).all(|(a, b)| a.0.total_cmp(&b.0).is_eq())
        };
        if !lines.iter().all(|(_, points)| share(points)) {
            return;
        }
        let at: Vec<_> = first.iter().map(|point| self.x(point.0).unwrap_or(LEFT)).collect();
        for (place, (x, _)) in first.iter().enumerate() {
            let from = if place == 0 { LEFT } else { f64::midpoint(at[place - 1], at[place]) };
            let to = at.get(place + 1).map_or(RIGHT, |next| f64::midpoint(at[place], *next));
            let values =
                lines.iter().map(|(name, points)| format!("{} {}", short(points[place].1), escape(name)));
            let _ = writeln!(
                self.svg,
                "<rect class=\"hover\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"><title>at {} {}: {}</title></rect>",
                (to - from).max(0.0),
                BOTTOM - TOP,
                short(*x),
                escape(&chart.x.title),
                values.collect::<Vec<_>>().join(", ")
            );
        }
    }

    fn bars(&mut self, bars: &[Bar], colour: usize, unit: &str, name: &str) {
        for bar in bars.iter().filter(|bar| bar.height > 0.0) {
            let (Some(from), Some(to), Some(top)) = (self.x(bar.from), self.x(bar.to), self.y(bar.height))
            else {
                continue;
            };
            // However rare: it can be seen.
            let height = (BOTTOM - top).max(1.0);
            let _ = writeln!(
                self.svg,
                "<rect class=\"bar s{colour}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\">\
                 <title>{} to {} {}: {} {}</title></rect>",
                BOTTOM - height,
                (to - from - 1.0).max(0.5),
                short(bar.from),
                short(bar.to),
                escape(unit),
                short(bar.height),
                escape(name)
            );
        }
    }

    fn mark(&mut self, at: f64, name: &str, line: usize) {
        let Some(x) = self.x(at) else { return };
        #[expect(clippy::cast_precision_loss, reason = "there are few lines")]
        let y = TOP + 8.0 + line as f64 * LINE_HEIGHT;
        let (side, text_x) = if x > WIDTH * 0.7 { ("end", x - 4.0) } else { ("", x + 4.0) };
        let _ = writeln!(
            self.svg,
            "<path class=\"mark\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>\
             <text class=\"mark {side}\" x=\"{text_x:.1}\" y=\"{y:.1}\">{}</text>",
            escape(name)
        );
    }
}

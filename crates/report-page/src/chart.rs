//! A plot with a title and a text, as SVG in a page.

mod draw;
mod scale;

/// A plot.
#[derive(Debug, Clone)]
pub struct Chart {
    title: String,
    caption: String,
    x: Axis,
    y: Axis,
    series: Vec<Series>,
    marks: Vec<Mark>,
}

/// An axis: what it measures, and how values lie on it.
#[derive(Debug, Clone)]
pub struct Axis {
    title: String,
    scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// From zero: on a higher axis, a small drop would look large.
    Linear,
    /// A decade takes the same length everywhere. What is not above zero is left out.
    Log,
    /// Shares from 0 to below 1; each further nine takes the same length.
    Nines,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Line(Vec<(f64, f64)>),
    Bars(Vec<Bar>),
}

impl Series {
    /// The points of a line.
    fn points(&self) -> Option<&[(f64, f64)]> {
        match &self.shape {
            Shape::Line(points) => Some(points),
            Shape::Bars(_) => None,
        }
    }
}

/// A bar of a histogram: as wide as the values it counts.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// The least value it counts.
    pub from: f64,
    /// The value it ends before.
    pub to: f64,
    /// How high it is.
    pub height: f64,
}

/// A value that is marked on the x axis.
#[derive(Debug, Clone)]
struct Mark {
    at: f64,
    name: String,
}

impl Axis {
    /// An axis from zero.
    #[must_use]
    pub fn linear(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Linear }
    }

    /// An axis on which a factor of ten takes the same length everywhere.
    #[must_use]
    pub fn log(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Log }
    }

    /// An axis of shares, on which 90 %, 99 %, 99.9 % and so on are at the same distance.
    #[must_use]
    pub fn nines(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Nines }
    }
}

impl Chart {
    /// A plot without anything in it. The caption says what the plot shows: it is there for everybody, and read to who does
    /// not see the plot.
    #[must_use]
    pub fn new(title: impl Into<String>, caption: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self { title: title.into(), caption: caption.into(), x, y, series: Vec::new(), marks: Vec::new() }
    }

    /// Adds a line. It breaks where a value is no number.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        self.series.push(Series { name: name.into(), shape: Shape::Line(points) });
        self
    }

    /// Adds the bars of a histogram.
    #[must_use]
    pub fn bars(mut self, name: impl Into<String>, bars: Vec<Bar>) -> Self {
        self.series.push(Series { name: name.into(), shape: Shape::Bars(bars) });
        self
    }

    /// Marks a value of the x axis.
    #[must_use]
    pub fn mark(mut self, at: f64, name: impl Into<String>) -> Self {
        self.marks.push(Mark { at, name: name.into() });
        self
    }

    /// The points of all series, bars by their corners.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.series.iter().flat_map(|series| match &series.shape {
            Shape::Line(points) => points.clone(),
            Shape::Bars(bars) => {
                bars.iter().flat_map(|bar| [(bar.from, bar.height), (bar.to, 0.0)]).collect()
            }
        });
        points.filter(|(x, y)| x.is_finite() && y.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart::new("Rate", "Up & down", Axis::linear("seconds"), Axis::linear("per second"))
    }

    #[test]
    fn a_plot_has_a_title_and_a_text_and_names_its_lines() {
        let figure = chart().line("sent", vec![(0.0, 1.0), (1.0, 2.0)]).line("kept", vec![]).figure(3);
        for expected in [
            r#"<figcaption id="chart-3-title">Rate</figcaption>"#,
            r#"role="img" aria-labelledby="chart-3-title" aria-describedby="chart-3-text""#,
            r#"<p id="chart-3-text">Up &amp; down</p>"#,
            "</svg>sent</li>",
            ">seconds</text>",
            ">per second</text>",
        ] {
            assert!(figure.contains(expected), "{expected}: {figure}");
        }
        assert!(!figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    }

    #[test]
    fn every_text_of_a_plot_is_escaped() {
        let evil = "<b>\"'&";
        let axis = || Axis::linear(evil);
        let figure = Chart::new(evil, evil, axis(), axis())
            .line(evil, vec![(0.0, 1.0)])
            .bars(evil, vec![Bar { from: 0.0, to: 1.0, height: 1.0 }])
            .mark(0.5, evil)
            .figure(0);
        assert!(!figure.contains("<b>"), "{figure}");
        assert!(figure.matches("&lt;b&gt;&quot;&#39;&amp;").count() >= 7, "{figure}");
    }

    #[test]
    fn a_line_breaks_where_there_is_no_value_and_a_lonely_point_is_a_dot() {
        let points = vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 1.0), (3.0, 2.0)];
        let figure = chart().line("a", points).figure(0);
        assert_eq!(figure.matches("<path class=\"line").count(), 1, "{figure}");
        let path = figure.split("<path class=\"line").nth(1).unwrap().split('/').next().unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 3), "{path}");
    }

    #[test]
    fn a_plot_of_nothing_says_so() {
        let figure = chart().line("a", vec![(0.0, f64::NAN)]).figure(0);
        assert!(
            figure.contains("There is nothing to draw") && !figure.contains("<path class=\"line"),
            "{figure}"
        );
    }

    #[test]
    fn whoever_points_at_lines_is_told_their_values() {
        let both = chart()
            .line("sent", vec![(0.0, 1_500.0), (1.0, 2.0)])
            .line("kept", vec![(0.0, 3.0), (1.0, f64::NAN)]);
        let figure = both.figure(0);
        assert!(figure.contains("<title>at 0 seconds: 1.5k sent, 3 kept</title>"), "{figure}");
        assert!(figure.contains("<title>at 1 seconds: 2 sent, nothing kept</title>"), "{figure}");
        let apart = chart().line("sent", vec![(0.0, 1.0)]).line("kept", vec![(0.5, 1.0)]).figure(0);
        assert!(!apart.contains("class=\"hover\""), "{apart}");
    }

    #[test]
    fn a_bar_tells_its_range_and_height() {
        let bars = vec![Bar { from: 1.0, to: 2.0, height: 1_500.0 }, Bar { from: 2.0, to: 4.0, height: 0.0 }];
        let figure =
            Chart::new("", "", Axis::log("ms"), Axis::linear("requests")).bars("requests", bars).figure(0);
        assert!(figure.contains("<title>1 to 2 ms: 1.5k requests</title>"), "{figure}");
        assert_eq!(figure.matches("<rect class=\"bar").count(), 1, "an empty bar is not drawn");
    }
}

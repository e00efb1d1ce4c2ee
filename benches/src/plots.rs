//! The curves, as SVG.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measures::growth::Growth;
use crate::report::{Report, RivalOutcome};

pub(crate) const THROUGHPUT: &str = "throughput.svg";
pub(crate) const MEMORY: &str = "memory.svg";
pub(crate) const DISK: &str = "disk.svg";
pub(crate) const LATENCY: &str = "latency.svg";
pub(crate) const RIVALS: &str = "rivals.svg";

/// The colours of Okabe and Ito, which colour-blind people can tell apart.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(150, 75, 0),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Chart<'a> {
    title: &'a str,
    legend: Legend,
    x_title: &'a str,
    y_title: &'a str,
    curves: Vec<Curve>,
}

/// Where the names of the curves stand. It is a place without curves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Legend {
    UpperLeft,
    LowerRight,
    /// Beside the plot, for many curves.
    Beside,
}

/// Draws what was measured.
pub(crate) fn write(report: &Report, directory: &Path) -> anyhow::Result<()> {
    if let Some(growth) = &report.growth {
        write_growth(growth, directory)?;
    }
    if !report.latency.is_empty() {
        let curves = report.latency.iter().map(|steady| Curve {
            name: format!("{}, {:.0}/s", steady.name, steady.rate),
            points: steady.curve.iter().map(|&(quantile, ms)| (1.0 / (1.0 - quantile), ms)).collect(),
        });
        let chart = Chart {
            title: "Latency at half of the capacity",
            legend: Legend::LowerRight,
            x_title: "share of the requests that took no longer",
            y_title: "milliseconds",
            curves: curves.collect(),
        };
        chart.draw_quantiles(&directory.join(LATENCY))?;
    }
    let curves: Vec<_> = report
        .rivals
        .iter()
        .filter_map(|line| match &line.outcome {
            RivalOutcome::Measured(figures) => {
                let points =
                    figures.curve.iter().map(|&(made, rate)| (float(made) / 1e6, rate / 1e3)).collect();
                Some(Curve { name: line.name.clone(), points })
            }
            RivalOutcome::NotInstalled(_) => None,
        })
        .collect();
    if !curves.is_empty() {
        let chart = Chart {
            title: "The same deliveries, side by side",
            legend: Legend::Beside,
            x_title: "deliveries made, in millions",
            y_title: "thousand deliveries/s",
            curves,
        };
        chart.draw(&directory.join(RIVALS))?;
    }
    Ok(())
}

fn write_growth(growth: &Growth, directory: &Path) -> anyhow::Result<()> {
    let curve = |name: &str, value: &dyn Fn(&crate::measures::growth::Point) -> f64| Curve {
        name: name.to_owned(),
        points: growth.points.iter().map(|point| (float(point.deliveries) / 1e6, value(point))).collect(),
    };
    let tenths = growth
        .tenths
        .iter()
        .map(|point| (float(point.deliveries) / 1e6, point.rate / 1e3))
        .collect::<Vec<_>>();
    let charts = [
        (
            THROUGHPUT,
            "Throughput as the store grows",
            Legend::LowerRight,
            "thousand deliveries/s",
            vec![
                curve("every hundredth", &|point| point.rate / 1e3),
                Curve { name: "every tenth".to_owned(), points: tenths },
            ],
        ),
        (
            MEMORY,
            "Memory of the server as the store grows",
            Legend::LowerRight,
            "MB",
            vec![
                curve("resident", &|point| float(point.resident_bytes) / 1e6),
                curve("peak", &|point| float(point.peak_bytes) / 1e6),
            ],
        ),
        (
            DISK,
            "Disk as the store grows",
            Legend::UpperLeft,
            "GB",
            vec![
                curve("all files of the store", &|point| float(point.disk_bytes) / 1e9),
                // Four deliveries of five are stored.
                curve("the events alone", &|point| {
                    float(point.deliveries) * float(growth.identities) / float(growth.deliveries)
                        * growth.append_bytes_per_row
                        / 1e9
                }),
            ],
        ),
    ];
    for (file, title, legend, y_title, curves) in charts {
        let chart = Chart { title, legend, x_title: "deliveries made, in millions", y_title, curves };
        chart.draw(&directory.join(file))?;
    }
    Ok(())
}

const SIZE: (u32, u32) = (860, 460);
const TITLE_HEIGHT: u32 = 34;
/// Room for the longest name beside a plot.
const BESIDE: u32 = 340;

impl Chart<'_> {
    /// Both axes begin at zero: on a higher axis, a small drop would look large.
    fn draw(&self, path: &Path) -> anyhow::Result<()> {
        let (x, y) = (0.0..self.largest(|point| point.0), 0.0..self.largest(|point| point.1) * 1.08);
        self.try_draw(path, x, y).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    /// The x axis is 1/(1−quantile) and logarithmic, so each decade adds a nine. The y axis begins at a power of ten.
    fn draw_quantiles(&self, path: &Path) -> anyhow::Result<()> {
        let smallest = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
        let bottom = 10_f64.powf(smallest.fold(1.0, f64::min).log10().floor());
        let (x, y) = (1.0..self.largest(|point| point.0), bottom..self.largest(|point| point.1) * 1.3);
        self.try_draw_quantiles(path, x, y).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    fn largest(&self, of: impl Fn(&(f64, f64)) -> f64) -> f64 {
        self.curves.iter().flat_map(|curve| &curve.points).map(of).fold(f64::MIN_POSITIVE, f64::max)
    }

    fn try_draw(&self, path: &Path, x: Range<f64>, y: Range<f64>) -> Result<(), Box<dyn Error>> {
        let root = self.canvas(path);
        root.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&root);
        self.frame(&mut builder);
        let mut chart = builder.build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .x_desc(self.x_title)
            .y_desc(self.y_title)
            .x_label_formatter(&|value| label(*value, x.end))
            .y_label_formatter(&|value| label(*value, y.end))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        self.draw_curves(&mut chart)?;
        drop(chart);
        self.draw_beside(&root)?;
        Ok(root.present()?)
    }

    fn try_draw_quantiles(&self, path: &Path, x: Range<f64>, y: Range<f64>) -> Result<(), Box<dyn Error>> {
        let root = self.canvas(path);
        root.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&root);
        self.frame(&mut builder);
        let mut chart = builder.build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .x_desc(self.x_title)
            .y_desc(self.y_title)
            .x_label_formatter(&|value| format!("{} %", round(100.0 - 100.0 / value)))
            .y_label_formatter(&|value| round(*value))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .draw()?;
        self.draw_curves(&mut chart)?;
        drop(chart);
        Ok(root.present()?)
    }

    fn beside(&self) -> u32 {
        if self.legend == Legend::Beside { BESIDE } else { 0 }
    }

    fn canvas<'a>(&self, path: &'a Path) -> DrawingArea<SVGBackend<'a>, Shift> {
        SVGBackend::new(path, (SIZE.0 + self.beside(), SIZE.1)).into_drawing_area()
    }

    fn frame<B: DrawingBackend>(&self, builder: &mut ChartBuilder<'_, '_, B>) {
        builder
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .margin_right(14 + self.beside())
            .x_label_area_size(48)
            .y_label_area_size(70);
    }

    fn draw_curves<'b, C>(
        &self,
        chart: &mut ChartContext<'b, SVGBackend<'b>, C>,
    ) -> Result<(), Box<dyn Error>>
    where
        C: CoordTranslate<From = (f64, f64)>,
    {
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?
                .label(&curve.name)
                .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        }
        let position = match self.legend {
            Legend::UpperLeft => SeriesLabelPosition::UpperLeft,
            Legend::LowerRight => SeriesLabelPosition::LowerRight,
            Legend::Beside => return Ok(()),
        };
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 14))
            .draw()?;
        Ok(())
    }

    fn draw_beside(&self, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error>> {
        if self.legend != Legend::Beside {
            return Ok(());
        }
        let x = i32::try_from(SIZE.0)?;
        let mut y = i32::try_from(TITLE_HEIGHT + 24)?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            root.draw(&PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)))?;
            root.draw(&Text::new(curve.name.as_str(), (x + 26, y - 7), ("sans-serif", 14)))?;
            y += 24;
        }
        Ok(())
    }
}

const GRID: RGBColor = RGBColor(225, 225, 225);
const AXIS: RGBColor = RGBColor(120, 120, 120);

/// A label with as many decimals as an axis of this length needs.
fn label(value: f64, end: f64) -> String {
    match end {
        20.0.. => format!("{value:.0}"),
        2.0.. => format!("{value:.1}"),
        0.2.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A number without trailing zeros.
fn round(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "a plot needs no 53 bits")]
fn float(number: u64) -> f64 {
    number as f64
}

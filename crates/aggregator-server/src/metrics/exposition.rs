//! Writes metrics as text: as Prometheus has had it for long, or as OpenMetrics.

use std::fmt;

use aggregator_core::histogram::HistogramCounts;
use hyper::HeaderMap;
use hyper::header::ACCEPT;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::names::{Kind, Metric};

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Version 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
    Prometheus,
    /// Version 1.0.0: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
    OpenMetrics,
}

impl Format {
    /// The one that the client would rather have. Whoever asks for neither gets the older one.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let wishes = || headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let quality =
            |media| wishes().flat_map(|wish| wish.split(',')).filter_map(move |range| of(range, media));
        let best = |media| quality(media).fold(0.0, f32::max);
        let open_metrics = best(OPEN_METRICS);
        if open_metrics > 0.0 && open_metrics >= best(PLAIN) { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// How much a media range (RFC 9110, section 12.5.1) wishes for this type; `None` if it is of another one.
fn of(range: &str, media: &str) -> Option<f32> {
    let mut parts = range.split(';').map(str::trim);
    parts.next().filter(|found| found.eq_ignore_ascii_case(media))?;
    let quality = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
    });
    Some(quality.unwrap_or(1.0))
}

/// Metrics with their values at one moment.
#[derive(Debug, Default)]
pub(super) struct Exposition(Vec<Family>);

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    /// The values of the labels, in the order of the metric's labels.
    samples: Vec<(Vec<&'static str>, Value)>,
}

#[derive(Debug)]
pub(super) enum Value {
    Whole(u64),
    Fraction(f64),
    Histogram(HistogramCounts),
}

impl Exposition {
    /// Adds a metric with labels.
    pub(super) fn add<const N: usize>(
        &mut self,
        metric: &'static Metric,
        samples: impl IntoIterator<Item = ([&'static str; N], Value)>,
    ) {
        let samples = samples.into_iter().map(|(labels, value)| (labels.to_vec(), value)).collect();
        self.0.push(Family { metric, samples });
    }

    /// Adds a metric without labels.
    pub(super) fn set(&mut self, metric: &'static Metric, value: Value) {
        self.add(metric, [([], value)]);
    }

    pub(super) fn write(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &registry)?,
            Format::OpenMetrics => text::encode(&mut written, &registry)?,
        }
        Ok(written)
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { metric, samples } in &self.0 {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram(_) => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let mut encoder = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (values, value) in samples {
                let names = metric.labels.iter().map(|(name, _)| *name);
                let labels: Vec<_> = names.zip(values.iter().copied()).collect();
                match metric.kind {
                    Kind::Info => encoder.encode_info(&labels)?,
                    _ if labels.is_empty() => value.encode(metric.kind, &mut encoder)?,
                    _ => value.encode(metric.kind, &mut encoder.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self, kind) {
            (Self::Whole(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Self::Fraction(value), Kind::Counter) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
            }
            (Self::Whole(value), _) => encoder.encode_gauge(value),
            (Self::Fraction(value), _) => encoder.encode_gauge(value),
            (Self::Histogram(counts), _) => {
                let buckets: Vec<_> = counts.buckets().collect();
                encoder.encode_histogram::<NoLabelSet>(counts.sum(), counts.count(), &buckets, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, hyper::header::HeaderValue::from_static(value));
        }
        Format::accepted(&headers)
    }

    #[test]
    fn the_format_is_the_one_the_client_would_rather_have() {
        use Format::{OpenMetrics, Prometheus};
        for wishes in [&[][..], &["*/*"], &["text/plain"], &["application/json"], &[""], &[";q=1,"]] {
            assert_eq!(accepted(wishes), Prometheus, "{wishes:?}");
        }
        let of_prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                             text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(accepted(&[of_prometheus]), OpenMetrics);
        assert_eq!(accepted(&["text/plain", "Application/OpenMetrics-Text"]), OpenMetrics);
        assert_eq!(accepted(&["text/plain;q=0.5", "application/openmetrics-text;q=0.4"]), Prometheus);
        assert_eq!(accepted(&["application/openmetrics-text;q=0"]), Prometheus);
        assert_eq!(accepted(&["application/openmetrics-text; q = x"]), Prometheus);
    }
}

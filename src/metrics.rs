//! What is said to Prometheus: metrics are described in tables, which are what is served, what README lists, and what
//! rules and dashboards are tested against.

use std::fmt;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The format's own name for itself.
/// <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What the format puts behind a counter's name.
const TOTAL: &str = "_total";

/// How a metric's values are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, but for a restart.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often values fell into each of its ranges.
    Histogram,
}

/// A metric, as Prometheus knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels of each of its values, in their order. Prometheus adds those of what it asks.
    pub labels: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

impl Metric {
    /// One that goes up and down.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, labels, help }
    }

    /// One that only grows.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, labels, help }
    }

    /// One that counts values by their size.
    pub const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, labels, help }
    }

    /// The names under which Prometheus keeps its values.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            Kind::Counter | Kind::Gauge => vec![self.name.to_owned()],
            Kind::Histogram => {
                ["bucket", "sum", "count"].iter().map(|part| format!("{}_{part}", self.name)).collect()
            }
        }
    }

    /// The name by which it is registered: the format adds what follows a counter's.
    pub fn registered(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix(TOTAL).unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }

    /// A value of it, with its labels' values in their order.
    pub fn sample(&'static self, labels: &[&str], value: f64) -> Sample {
        let labels = self.labels.iter().zip(labels).map(|(name, value)| (*name, (*value).to_owned()));
        Sample { of: self, labels: labels.collect(), value }
    }

    /// Writes its name and those of the samples that are its own.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn encode<'s>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        samples: impl IntoIterator<Item = &'s Sample>,
    ) -> fmt::Result {
        let mut own = samples.into_iter().filter(|sample| sample.of.name == self.name).peekable();
        if own.peek().is_none() {
            return Ok(());
        }
        let counted = self.kind == Kind::Counter && self.name.ends_with(TOTAL);
        let kind = match self.kind {
            Kind::Counter if counted => MetricType::Counter,
            // The format insists on the ending; others have given it a name without.
            Kind::Counter => MetricType::Unknown,
            Kind::Gauge | Kind::Histogram => MetricType::Gauge,
        };
        let help = format!("{}.", self.help);
        let mut family = encoder.encode_descriptor(self.registered(), &help, None, kind)?;
        own.try_for_each(|Sample { labels, value, .. }| {
            if labels.is_empty() {
                encode_value(&mut family, counted, *value)
            } else {
                encode_value(&mut family.encode_family(labels)?, counted, *value)
            }
        })
    }
}

fn encode_value(encoder: &mut MetricEncoder<'_>, counted: bool, value: f64) -> fmt::Result {
    match (counted, whole(value)) {
        (true, Some(whole)) => encoder.encode_counter::<NoLabelSet, u64, f64>(&whole.unsigned_abs(), None),
        (true, None) => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        (false, Some(whole)) => encoder.encode_gauge(&whole),
        (false, None) => encoder.encode_gauge(&value),
    }
}

/// Whole numbers are written as such, as far as they are exact.
fn whole(value: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64)
}

/// A number of things or bytes as a value. Above 2⁵³ the last digits are lost.
pub fn number(count: u64) -> f64 {
    count as f64
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric.
    pub of: &'static Metric,
    /// Its labels.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

/// The answer to who asks for a page of metrics.
pub fn answer(page: Result<String, fmt::Error>) -> Response {
    match page {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    static DOORS: Metric = Metric::gauge("doors", &["house"], "Doors");
    static STEPS: Metric = Metric::counter("steps_total", &[], "Steps");
    static OTHERS: Metric = Metric::counter("others_steps", &["who"], "Steps by another's name");
    static NONE: Metric = Metric::gauge("none", &[], "Of which there is no value");

    #[derive(Debug)]
    struct Samples(Vec<Sample>);

    impl Collector for Samples {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            [&DOORS, &STEPS, &OTHERS, &NONE]
                .iter()
                .try_for_each(|metric| metric.encode(&mut encoder, &self.0))
        }
    }

    #[test]
    fn samples_are_written_by_their_metrics() {
        let samples = vec![
            DOORS.sample(&["a \"b\"\\\n"], 2.0),
            STEPS.sample(&[], 7.0),
            OTHERS.sample(&["me"], 0.25),
            DOORS.sample(&["c"], -1.5),
        ];
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Samples(samples)));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        insta::assert_snapshot!(page, @r##"
        # HELP doors Doors.
        # TYPE doors gauge
        doors{house="a \"b\"\\\n"} 2
        doors{house="c"} -1.5
        # HELP steps Steps.
        # TYPE steps counter
        steps_total 7
        # HELP others_steps Steps by another's name.
        # TYPE others_steps unknown
        others_steps{who="me"} 0.25
        # EOF
        "##);
    }
}

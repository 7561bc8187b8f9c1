//! Creates and registers metric families with all of their series.

use std::sync::Arc;

use prometheus::{
    Counter, CounterVec, Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

/// One label and all its values.
pub(super) type Dimension<'a> = (&'a str, Vec<&'a str>);

/// Prefix of every name except the process metrics, which have Prometheus's names.
const PREFIX: &str = "instant_connect_";

/// The families that a handle records in; none if metrics are off.
#[derive(Debug)]
pub(super) struct Recorder<F>(Option<Arc<F>>);

impl<F> Recorder<F> {
    pub(super) fn new(families: F) -> Self {
        Self(Some(Arc::new(families)))
    }

    pub(super) const fn off() -> Self {
        Self(None)
    }

    pub(super) fn record(&self, record: impl FnOnce(&F)) {
        if let Some(families) = &self.0 {
            record(families);
        }
    }
}

impl<F> Clone for Recorder<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Creates families and registers them.
pub(super) struct Families<'a>(pub(super) &'a Registry);

impl Families<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: Result<C, Error>) -> Result<C, Error> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.add(IntGauge::with_opts(opts(name, help)))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        self.add(Histogram::with_opts(histogram_opts(name, help, buckets)))
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        dimensions: &[Dimension<'_>],
    ) -> Result<IntCounterVec, Error> {
        let family = self.add(IntCounterVec::new(opts(name, help), &names(dimensions)))?;
        each(dimensions, |values| family.get_metric_with_label_values(values).map(drop))?;
        Ok(family)
    }

    /// Creates counters with fractional values.
    pub(super) fn sums(
        &self,
        name: &str,
        help: &str,
        dimensions: &[Dimension<'_>],
    ) -> Result<CounterVec, Error> {
        let family = self.add(CounterVec::new(opts(name, help), &names(dimensions)))?;
        each(dimensions, |values| family.get_metric_with_label_values(values).map(|_: Counter| ()))?;
        Ok(family)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        dimensions: &[Dimension<'_>],
    ) -> Result<IntGaugeVec, Error> {
        let family = self.add(IntGaugeVec::new(opts(name, help), &names(dimensions)))?;
        each(dimensions, |values| family.get_metric_with_label_values(values).map(drop))?;
        Ok(family)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        dimensions: &[Dimension<'_>],
    ) -> Result<HistogramVec, Error> {
        let family = self.add(HistogramVec::new(histogram_opts(name, help, buckets), &names(dimensions)))?;
        each(dimensions, |values| family.get_metric_with_label_values(values).map(drop))?;
        Ok(family)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}{name}"), help)
}

fn histogram_opts(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec())
}

fn names<'a>(dimensions: &[Dimension<'a>]) -> Vec<&'a str> {
    dimensions.iter().map(|(name, _)| *name).collect()
}

/// Visits every combination of the dimensions' values.
fn each(
    dimensions: &[Dimension<'_>],
    mut visit: impl FnMut(&[&str]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut combinations = vec![Vec::new()];
    for (_, values) in dimensions {
        combinations = combinations
            .iter()
            .flat_map(|begun| values.iter().map(move |value| [begun.as_slice(), &[*value]].concat()))
            .collect();
    }
    combinations.iter().try_for_each(|values| visit(values))
}

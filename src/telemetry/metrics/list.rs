//! The list of metrics for operators, generated from the metrics.

use std::{collections::BTreeMap, fmt::Write as _};

use prometheus::proto::{Metric, MetricType};

use super::Metrics;

/// Returns every metric with type, labels and meaning as Markdown, for `config/metrics.md`.
#[must_use]
pub fn list(metrics: &Metrics) -> String {
    let mut text = String::from(
        "# Metrics\n\nThe worker serves these metrics on `/metrics`. `make metrics` generates this list from the program. Every series exists from the \
         start, at zero (`build_info`: 1); those of the stages `sms` and `whatsapp` exist only with `guests.delivery` webex-connect.\n\n| name | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for family in metrics.registry.gather() {
        let mut labels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for label in family.get_metric().iter().flat_map(Metric::get_label) {
            let values = labels.entry(label.name()).or_default();
            // The version would change this list in every release.
            let value = if label.name() == "version" { "…" } else { label.value() };
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let labels = labels.iter().map(|(name, values)| format!("`{name}`: {}", values.join(", ")));
        let labels = labels.collect::<Vec<_>>().join("; ");
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            _ => "other",
        };
        // Writing to a string cannot fail.
        _ = writeln!(text, "| `{}` | {kind} | {labels} | {} |", family.name(), family.help());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Sources, load},
        stages,
        state::WorkerState,
    };

    fn metrics() -> Metrics {
        let loaded = load(&Sources::default()).unwrap();
        Metrics::new(stages::ALL, loaded.config.retry.delays.as_slice()).unwrap()
    }

    #[test]
    fn metrics_md_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/metrics.md");
        let list = list(&metrics());
        if std::env::var_os("ICW_WRITE_METRICS").is_some() {
            std::fs::write(&path, &list).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == list,
            "config/metrics.md is outdated: run `make metrics`"
        );
    }

    #[test]
    fn every_series_starts_at_zero() {
        let metrics = metrics();
        metrics.show(&WorkerState::default());
        let text = metrics.render().unwrap();
        let ours = text.lines().filter(|line| line.starts_with("instant_connect_"));
        let not_zero: Vec<_> = ours.filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(
            not_zero,
            [format!(
                "instant_connect_build_info{{role=\"all\",version=\"{}\"}} 1",
                env!("CARGO_PKG_VERSION")
            )]
        );
    }
}

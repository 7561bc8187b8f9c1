//! Check of the OTLP collector.

use std::time::Duration;

use tokio::time::timeout;

use super::{CheckGroup::Telemetry, Finding};
use crate::{config::Loaded, telemetry::try_collector};

/// Time limit for the collector's response.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) async fn run(loaded: &Loaded) -> Vec<Finding> {
    let what = "collector";
    let Some(url) = loaded.traces_url() else {
        return vec![Telemetry.pass(what, "tracing is off: no spans are sent")];
    };
    let tried = timeout(ANSWER, try_collector(&url, loaded.config.tls.ca_file.as_deref())).await;
    vec![match tried.unwrap_or_else(|_| Err(format!("no response within {ANSWER:?}"))) {
        Ok(()) => Telemetry.pass(what, "accepts spans"),
        Err(problem) => Telemetry.fail(what, format!("does not accept spans: {problem}")).advise(
            "check telemetry.otlp_endpoint, OTEL_EXPORTER_OTLP_HEADERS and that the collector accepts OTLP over HTTP (port \
             4318); the worker runs without it",
        ),
    }]
}

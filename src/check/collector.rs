//! The collector of spans.

use std::time::Duration;

use tokio::time::timeout;

use super::Finding;
use crate::{config::Loaded, telemetry::try_collector};

/// For its answer.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) async fn look(loaded: &Loaded) -> Vec<Finding> {
    let what = "collector";
    let Some(url) = loaded.traces_url() else {
        return vec![Finding::pass(what, "off: no spans are sent")];
    };
    let tried = timeout(ANSWER, try_collector(&url, loaded.config.tls.ca_file.as_deref())).await;
    vec![match tried.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}"))) {
        Ok(()) => Finding::pass(what, "takes spans"),
        Err(problem) => Finding::fail(what, format!("takes no spans: {problem}")).advise(
            "see telemetry.otlp_endpoint, OTEL_EXPORTER_OTLP_HEADERS and whether it takes OTLP over HTTP (port 4318); work \
             goes on without it",
        ),
    }]
}

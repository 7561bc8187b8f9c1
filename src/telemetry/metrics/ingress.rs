//! Metrics of the ingress.

use std::time::{Duration, Instant};

use prometheus::{Error, Histogram, HistogramVec, IntCounterVec, IntGauge};

use super::{
    CALL_BUCKETS, LOCAL_BUCKETS,
    families::{Families, Recorder},
    labels::{Answered, AuthFailure, IngressRoute, Label},
    ledger::LedgerFamilies,
};

/// The metric families of the ingress.
#[derive(Debug)]
pub(super) struct IngressFamilies {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    auth_failures: IntCounterVec,
    publish: Histogram,
}

impl IngressFamilies {
    pub(super) fn new(families: &Families<'_>) -> Result<Self, Error> {
        let route = || ("route", IngressRoute::texts());
        Ok(Self {
            requests: families.counters(
                "ingress_requests_total",
                "HTTP requests: accepted (the event or receipt is confirmed); replayed (an earlier request was accepted); served (a document); \
                 ignored (a receipt that is unreadable or about another program's message); \
                 gone (the client disconnected before the response); otherwise the type of the problem.",
                &[route(), ("outcome", Answered::texts())],
            )?,
            seconds: families.histograms(
                "ingress_request_seconds",
                "Time from a request's head to its response.",
                CALL_BUCKETS,
                &[route()],
            )?,
            in_flight: families.gauge("ingress_in_flight", "HTTP requests in progress.")?,
            auth_failures: families.counters(
                "ingress_auth_failures_total",
                "HTTP requests refused: missing (no Authorization header and no signature); malformed (not a bearer token, or not the headers of a signature); \
                 unknown (the token of no client); signature (of no client); timestamp (the signature is more than 5 minutes old, or from the future); \
                 throttled (signed, not checked, because too many requests of the address were refused); shared (the token or secret of several clients); \
                 address or scope (the client may not call from this address, or not do this).",
                &[("reason", AuthFailure::texts())],
            )?,
            publish: families.histogram(
                "ingress_publish_seconds",
                "Time from publishing a request's event to its confirm.",
                LOCAL_BUCKETS,
            )?,
        })
    }
}

/// The metrics of the ingress.
#[derive(Clone, Debug)]
pub struct IngressMetrics {
    pub(super) families: Recorder<IngressFamilies>,
    pub(super) ledger: Recorder<LedgerFamilies>,
}

impl IngressMetrics {
    /// Starts the timer of a request.
    #[must_use]
    pub fn begin(&self, route: IngressRoute) -> RequestTimer {
        self.families.record(|families| families.in_flight.inc());
        let answered = Answered::Gone;
        RequestTimer { families: self.families.clone(), route, since: Instant::now(), answered }
    }

    /// Counts a request that was not authenticated or not allowed.
    pub fn auth_failed(&self, reason: AuthFailure) {
        self.families.record(|families| families.auth_failures.with_label_values(&[reason.as_str()]).inc());
    }

    /// Records the time until a confirm.
    pub fn confirmed(&self, took: Duration) {
        self.families.record(|families| families.publish.observe(took.as_secs_f64()));
    }

    /// Counts a failure of the ledger during a request.
    pub fn ledger_failed(&self) {
        self.ledger.record(|ledger| ledger.failed_at_ingress(IngressRoute::Sessions));
    }
}

/// Timer of a request in progress. Dropping it ends the request. Without a response, the client is gone.
#[derive(Debug)]
pub struct RequestTimer {
    families: Recorder<IngressFamilies>,
    route: IngressRoute,
    since: Instant,
    answered: Answered,
}

impl RequestTimer {
    /// Sets the outcome.
    pub const fn set(&mut self, answered: Answered) {
        self.answered = answered;
    }
}

impl Drop for RequestTimer {
    fn drop(&mut self) {
        let (route, took) = (self.route.as_str(), self.since.elapsed().as_secs_f64());
        self.families.record(|families| {
            families.in_flight.dec();
            families.requests.with_label_values(&[route, self.answered.as_str()]).inc();
            if self.answered == Answered::Gone {
                return;
            }
            families.seconds.with_label_values(&[route]).observe(took);
        });
    }
}

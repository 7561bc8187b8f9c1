//! Control of one server: its fault rules, the notification of its changes, its shutdown; and `/sandbox/faults`, for fault
//! injection with curl.
//!
//! There is no authorisation, because the sandbox listens on loopback. A web page in a browser can't post here, because
//! JSON from another origin needs a CORS permission that the sandbox never gives.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    api::{self, ApiError},
    faults::{Endpoint, Fault, FaultRule, Faults, RULES_MAX, ShownFault},
};

/// The fault rules of one server, the notification of its changes, and its shutdown. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Control(Arc<SharedControl>);

#[derive(Default)]
struct SharedControl {
    faults: Mutex<Faults>,
    version: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

impl Control {
    pub(super) fn fault(&self, rule: FaultRule) {
        lock(&self.0.faults).add(rule);
        self.notify();
    }

    pub(super) fn clear_faults(&self) {
        lock(&self.0.faults).clear();
        self.notify();
    }

    pub(super) fn shown_faults(&self) -> Vec<ShownFault> {
        lock(&self.0.faults).shown()
    }

    fn too_many_faults(&self) -> bool {
        lock(&self.0.faults).len() >= RULES_MAX
    }

    /// The fault for this request, if a rule fires.
    pub(super) fn pick(&self, endpoint: Endpoint) -> Option<Fault> {
        lock(&self.0.faults).pick(endpoint)
    }

    /// Number that increases with every change.
    pub(super) fn version(&self) -> u64 {
        *self.0.version.borrow()
    }

    pub(super) fn notify(&self) {
        self.0.version.send_modify(|version| *version += 1);
    }

    /// Resolves at the first change after this call.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut version = self.0.version.subscribe();
        let keep_alive = self.clone();
        async move {
            // This fails only without a sender, which `keep_alive` holds.
            let _ = version.changed().await;
            drop(keep_alive);
        }
    }

    /// Waits for `length`, or until the sandbox closes, because a fault must not delay the shutdown.
    pub(super) async fn pause(&self, length: Duration) {
        let _ = tokio::time::timeout(length, self.closing()).await;
    }

    pub(super) fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Resolves when [`Self::close`] is called.
    pub(super) async fn closing(&self) {
        // This fails only without a sender, and `self` has one.
        let _ = self.0.closing.subscribe().wait_for(|closing| *closing).await;
    }
}

/// Locks `mutex`. Poisoning is ignored: a panicked handler leaves consistent records, because each change is a few pushes.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `GET`: the active rules, their text form, and the number of times each rule fired.
pub(super) async fn list(State(control): State<Control>) -> Json<Value> {
    Json(json!({"faults": control.shown_faults()}))
}

/// `POST`: adds a rule. The keys are those of the text form, as in
/// `{"endpoint":"messages","status":429,"retry-after":7,"times":3}`.
pub(super) async fn add(
    State(control): State<Control>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<FaultRule>), ApiError> {
    let rule: FaultRule = api::parse(&headers, body)?;
    if control.too_many_faults() {
        let error = ApiError::new(StatusCode::CONFLICT, "There are too many faults");
        return Err(
            error.describe(format!("the limit is {RULES_MAX} rules; clear them with DELETE /sandbox/faults"))
        );
    }
    control.fault(rule.clone());
    Ok((StatusCode::CREATED, Json(rule)))
}

/// `DELETE`: clears all rules.
pub(super) async fn clear(State(control): State<Control>) -> StatusCode {
    control.clear_faults();
    StatusCode::NO_CONTENT
}

//! State of a running fake of Webex Connect, shared by its handlers, by tests and by the demo.

mod checks;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{extract::FromRef, http::Method};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use url::Url;

use super::{
    ConnectSettings,
    credentials::ServiceCredentials,
    listener::Gate,
    receipts::{ReceiptJob, ReceiptWebhook},
    records::{ConnectCounts, ReceiptResult, RecordedReceipt, RecordedSend},
};
use crate::{
    control::{Control, lock},
    faults::{Endpoint, Fault, FaultRule},
    log::{KEPT, KEPT_BYTES},
    records::Arrival,
    ring::Ring,
    state::{Handle, after},
};

/// Time limit of [`ConnectHandle::refuse_connections`].
const GATE_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to a running fake of Webex Connect, which reads its records and controls its faults. Clones share the same
/// fake.
#[derive(Clone)]
pub struct ConnectHandle(Arc<SharedConnect>);

struct SharedConnect {
    url: Url,
    links: Url,
    phones: Option<Handle>,
    settings: Mutex<ConnectSettings>,
    log: Mutex<ConnectLog>,
    control: Control,
    /// Refusals of the v1 APIs, to alternate their form.
    refusals: AtomicU64,
    receipts_made: AtomicU64,
    receipts: mpsc::Sender<ReceiptJob>,
    wanted: Gate,
    listening: Gate,
}

struct ConnectLog {
    sends: Ring<RecordedSend>,
    receipts: Ring<RecordedReceipt>,
    arrivals: Ring<Arrival>,
    counts: ConnectCounts,
}

impl ConnectHandle {
    pub(super) fn new(
        url: Url,
        links: Url,
        phones: Option<Handle>,
        settings: ConnectSettings,
        receipts: mpsc::Sender<ReceiptJob>,
    ) -> Self {
        Self(Arc::new(SharedConnect {
            url,
            links,
            phones,
            settings: Mutex::new(settings),
            log: Mutex::new(ConnectLog {
                sends: Ring::new(KEPT, KEPT_BYTES),
                receipts: Ring::new(KEPT, KEPT_BYTES),
                arrivals: Ring::new(KEPT, KEPT_BYTES),
                counts: ConnectCounts::default(),
            }),
            control: Control::default(),
            refusals: AtomicU64::new(0),
            receipts_made: AtomicU64::new(0),
            receipts,
            wanted: watch::Sender::new(true),
            listening: watch::Sender::new(true),
        }))
    }

    /// `http://ADDR/`, for clients on this machine.
    #[must_use]
    pub fn url(&self) -> Url {
        self.0.url.clone()
    }

    /// The accepted messages and events, oldest first; at most the latest [`KEPT`].
    #[must_use]
    pub fn sends(&self) -> Vec<RecordedSend> {
        self.log().sends.iter().cloned().collect()
    }

    /// The sends after the first `count` sends (see [`ConnectCounts::sends`]), oldest first; at most the latest [`KEPT`].
    #[must_use]
    pub fn sends_after(&self, count: u64) -> Vec<RecordedSend> {
        let log = self.log();
        after(log.sends.iter(), log.counts.sends, count)
    }

    /// Number of messages to `address` with this link, among the latest [`KEPT`] sends. `address` is compared without its
    /// `+`, so that SMS and WhatsApp messages to one number count together.
    #[must_use]
    pub fn times_sent(&self, address: &str, link: &str) -> u64 {
        let key = (address.trim_start_matches('+').to_owned(), link.to_owned());
        self.send_counts().get(&key).copied().unwrap_or(0)
    }

    /// Number of messages for each address without `+` and link, among the latest [`KEPT`] sends. A message without a link
    /// is not counted. The address of an event is empty.
    #[must_use]
    pub fn send_counts(&self) -> HashMap<(String, String), u64> {
        let mut counts = HashMap::new();
        for send in self.log().sends.iter() {
            if let Some(url) = &send.url {
                let key = (send.address.trim_start_matches('+').to_owned(), url.clone());
                *counts.entry(key).or_default() += 1;
            }
        }
        counts
    }

    /// The attempts to send receipts, oldest first; at most the latest [`KEPT`].
    #[must_use]
    pub fn receipts(&self) -> Vec<RecordedReceipt> {
        self.log().receipts.iter().cloned().collect()
    }

    /// The attempts after the first `count` attempts (see [`ConnectCounts::receipts`]), oldest first; at most the latest [`KEPT`].
    #[must_use]
    pub fn receipts_after(&self, count: u64) -> Vec<RecordedReceipt> {
        let log = self.log();
        after(log.receipts.iter(), log.counts.receipts, count)
    }

    /// All counters at one instant. Use these in [`Self::until`], because the lists are copied and therefore expensive.
    #[must_use]
    pub fn counts(&self) -> ConnectCounts {
        self.log().counts
    }

    /// The requests to the endpoint, oldest first, among the latest [`KEPT`] of all endpoints.
    #[must_use]
    pub fn arrivals(&self, endpoint: Endpoint) -> Vec<Arrival> {
        self.log().arrivals.iter().filter(|arrival| endpoint.covers(arrival.endpoint)).cloned().collect()
    }

    /// Adds a rule after the existing rules; the first rule that fires applies. Rules of other endpoints have no effect.
    pub fn fault(&self, rule: FaultRule) {
        self.0.control.fault(rule);
    }

    /// Removes all faults. Requests that already hang or are delayed are not affected.
    pub fn clear_faults(&self) {
        self.0.control.clear_faults();
    }

    /// Sets the accepted credentials; other credentials are refused from then on.
    pub fn set_credentials(&self, credentials: ServiceCredentials) {
        self.settings().credentials = credentials;
    }

    /// Changes the settings.
    pub fn change_settings(&self, change: impl FnOnce(&mut ConnectSettings)) {
        change(&mut self.settings());
    }

    /// Refuses connections, or accepts them again at the same address. Open connections are closed at their next request.
    /// Resolves when the socket is closed or open, or after five seconds if the server does not run.
    pub async fn refuse_connections(&self, refuse: bool) {
        let mut listening = self.0.listening.subscribe();
        self.0.wanted.send_replace(!refuse);
        let _ = timeout(GATE_TIMEOUT, listening.wait_for(|listening| *listening != refuse)).await;
    }

    /// Resolves at the first change of the state after **this call**, not after the first poll.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.control.changed()
    }

    /// Resolves when the condition is true; checks it now and after every change.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        loop {
            let changed = self.changed();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }
}

/// Methods for the handlers.
impl ConnectHandle {
    pub(super) fn control(&self) -> &Control {
        &self.0.control
    }

    /// Records a request and picks its fault.
    pub(super) fn arrive(&self, endpoint: Endpoint, method: &Method) -> Option<Fault> {
        let fault = self.0.control.pick(endpoint);
        let arrival =
            Arrival { at: Instant::now(), endpoint, method: method.to_string(), fault: fault.clone() };
        self.change(|log| {
            match endpoint {
                Endpoint::Sms => log.counts.sms += 1,
                Endpoint::WhatsApp => log.counts.whatsapp += 1,
                _ => log.counts.events += 1,
            }
            log.arrivals.push(arrival, size_of::<Arrival>());
        });
        fault
    }

    pub(super) fn refuses_connections(&self) -> bool {
        !*self.0.wanted.borrow()
    }

    /// Records accepted messages, shows them on the phones and plans their receipts.
    pub(super) fn accept(&self, sends: Vec<RecordedSend>) {
        for send in sends {
            let text = send.text();
            let receipts = (self.settings().webhook.is_some() && send.endpoint != Endpoint::Event)
                .then(|| ReceiptJob::new(send.clone(), self.control()));
            self.change(|log| {
                log.counts.sends += 1;
                let bytes = send.bytes();
                log.sends.push(send, bytes);
            });
            if let (Some(phones), Some(text)) = (&self.0.phones, text) {
                phones.deliver_text(text);
            }
            if let Some(receipts) = receipts {
                // Above the limit, receipts are dropped.
                let _ = self.0.receipts.try_send(receipts);
            }
        }
    }

    pub(super) fn add_receipt(&self, receipt: RecordedReceipt) {
        self.change(|log| {
            log.counts.receipts += 1;
            log.counts.confirmed_receipts += u64::from(receipt.result == ReceiptResult::Status(200));
            log.receipts.push(receipt, size_of::<RecordedReceipt>());
        });
    }

    /// Number of the next receipt, to vary its form.
    pub(super) fn next_receipt(&self) -> u64 {
        self.0.receipts_made.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn webhook(&self) -> Option<ReceiptWebhook> {
        self.settings().webhook.clone()
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, ConnectSettings> {
        lock(&self.0.settings)
    }

    /// The latest sends and receipts, newest first.
    pub(super) fn latest(&self, max: usize) -> (Vec<RecordedSend>, Vec<RecordedReceipt>) {
        let log = self.log();
        (
            log.sends.iter().rev().take(max).cloned().collect(),
            log.receipts.iter().rev().take(max).cloned().collect(),
        )
    }

    fn log(&self) -> MutexGuard<'_, ConnectLog> {
        lock(&self.0.log)
    }

    fn change(&self, act: impl FnOnce(&mut ConnectLog)) {
        act(&mut self.log());
        self.0.control.notify();
    }

    pub(super) fn gates(&self) -> (watch::Receiver<bool>, Gate) {
        (self.0.wanted.subscribe(), self.0.listening.clone())
    }
}

impl FromRef<ConnectHandle> for Control {
    fn from_ref(handle: &ConnectHandle) -> Self {
        handle.control().clone()
    }
}

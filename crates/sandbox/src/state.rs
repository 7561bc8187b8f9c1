//! State of a running sandbox, shared by its handlers, by tests and by the demo.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use axum::{extract::FromRef, http::Method};
use secrecy::SecretString;
use url::Url;

use super::{
    control::{Control, lock},
    faults::{Endpoint, Fault, FaultRule},
    keys::Keys,
    log::{Log, LogCounts},
    records::{Arrival, RecordedCall, RecordedLink, RecordedMessage, RecordedRole, Text},
};

/// A handle to a running sandbox, which reads its records and controls its faults. Clones share the same sandbox.
#[derive(Clone)]
pub struct Handle(Arc<SharedSandbox>);

struct SharedSandbox {
    keys: Keys,
    url: Url,
    base_url: Url,
    token: Mutex<SecretString>,
    log: Mutex<Log>,
    control: Control,
}

impl Handle {
    pub(super) fn new(keys: Keys, token: SecretString, url: Url, base_url: Url) -> Self {
        Self(Arc::new(SharedSandbox {
            keys,
            url,
            base_url,
            token: Mutex::new(token),
            log: Mutex::new(Log::new()),
            control: Control::default(),
        }))
    }

    /// All `joseencrypt` requests that passed authorisation and validation, oldest first; at most the latest
    /// [`KEPT`](super::KEPT).
    #[must_use]
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.log().calls.iter().cloned().collect()
    }

    /// The short links of `GET /visit/{code}`, by code; at most the latest [`KEPT`](super::KEPT).
    #[must_use]
    pub fn links(&self) -> HashMap<String, RecordedLink> {
        self.log().links.clone()
    }

    /// The short link with this code.
    #[must_use]
    pub fn link(&self, code: &str) -> Option<RecordedLink> {
        self.log().links.get(code).cloned()
    }

    /// The posted Webex messages, oldest first; at most the latest [`KEPT`](super::KEPT).
    #[must_use]
    pub fn messages(&self) -> Vec<RecordedMessage> {
        self.log().messages.iter().cloned().collect()
    }

    /// The calls after the first `count` calls (see [`LogCounts::calls`]), oldest first; at most the latest
    /// [`KEPT`](super::KEPT).
    #[must_use]
    pub fn calls_after(&self, count: u64) -> Vec<RecordedCall> {
        let log = self.log();
        after(log.calls.iter(), log.counts.calls, count)
    }

    /// The messages after the first `count` messages (see [`LogCounts::messages`]); otherwise as [`Self::calls_after`].
    #[must_use]
    pub fn messages_after(&self, count: u64) -> Vec<RecordedMessage> {
        let log = self.log();
        after(log.messages.iter(), log.counts.messages, count)
    }

    /// The texts delivered to phones, oldest first; at most the latest [`KEPT`](super::KEPT).
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        self.log().texts.iter().cloned().collect()
    }

    /// Delivers a text to a guest's phone.
    pub fn deliver_text(&self, text: Text) {
        self.change(|log| log.add_text(text));
    }

    /// Sets the accepted token; the previous token is refused with 401.
    pub fn set_token(&self, token: SecretString) {
        *lock(&self.0.token) = token;
    }

    /// Adds a rule after the existing rules; the first rule that fires applies.
    pub fn fault(&self, rule: FaultRule) {
        self.0.control.fault(rule);
    }

    /// Removes all faults. Requests that already hang or are delayed are not affected.
    pub fn clear_faults(&self) {
        self.0.control.clear_faults();
    }

    /// Number of requests to the endpoint, including refused requests and requests with a fault.
    #[must_use]
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        let counts = self.counts();
        match endpoint {
            Endpoint::JoseEncrypt => counts.joseencrypt,
            Endpoint::Messages => counts.message_requests,
            Endpoint::People => counts.people,
            Endpoint::Any => counts.joseencrypt + counts.message_requests + counts.people,
            Endpoint::Sms | Endpoint::WhatsApp | Endpoint::Event | Endpoint::Receipts => 0,
        }
    }

    /// The requests to the endpoint, oldest first, among the latest [`KEPT`](super::KEPT) of all endpoints.
    #[must_use]
    pub fn arrivals(&self, endpoint: Endpoint) -> Vec<Arrival> {
        self.log().arrivals.iter().filter(|arrival| endpoint.covers(arrival.endpoint)).cloned().collect()
    }

    /// All counters at one instant. Use these in [`Self::until`], because the lists are copied and therefore expensive.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        self.log().counts
    }

    /// Resolves at the first change of the state after **this call**, not after the first poll. To miss no change, call
    /// this method, read the state, and then await the future, as [`Self::until`] does.
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
impl Handle {
    pub(super) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(super) fn url(&self) -> &Url {
        &self.0.url
    }

    pub(super) fn base_url(&self) -> &Url {
        &self.0.base_url
    }

    pub(super) fn token(&self) -> SecretString {
        lock(&self.0.token).clone()
    }

    pub(super) fn control(&self) -> &Control {
        &self.0.control
    }

    /// Records a request and picks its fault.
    pub(super) fn arrive(&self, endpoint: Endpoint, method: &Method) -> Option<Fault> {
        let fault = self.0.control.pick(endpoint);
        let arrival =
            Arrival { at: Instant::now(), endpoint, method: method.to_string(), fault: fault.clone() };
        self.change(|log| log.add_arrival(arrival));
        fault
    }

    pub(super) fn add_call(&self, call: RecordedCall) {
        self.change(|log| log.add_call(call));
    }

    /// Stores the link under a new unique code, and returns the code.
    pub(super) fn add_link(&self, link: RecordedLink) -> String {
        self.change(|log| log.add_link(link))
    }

    /// Stores a message. `bytes` is the approximate size of its content.
    pub(super) fn add_message(&self, message: RecordedMessage, bytes: usize) {
        self.change(|log| log.add_message(message, bytes));
    }

    /// The messages that `take` selects, newest first, at most `max`.
    pub(super) fn find_messages(
        &self,
        max: usize,
        take: impl FnMut(&&RecordedMessage) -> bool,
    ) -> Vec<RecordedMessage> {
        self.log().messages.iter().rev().filter(take).take(max).cloned().collect()
    }

    /// The latest calls and texts, newest first, for the page.
    pub(super) fn latest(&self, max: usize) -> (Vec<RecordedCall>, Vec<Text>) {
        let log = self.log();
        (
            log.calls.iter().rev().take(max).cloned().collect(),
            log.texts.iter().rev().take(max).cloned().collect(),
        )
    }

    pub(super) fn link_role(&self, code: &str) -> Option<RecordedRole> {
        self.log().links.get(code).map(|link| link.role)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.0.log)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Log) -> T) -> T {
        let done = act(&mut self.log());
        self.0.control.notify();
        done
    }
}

impl FromRef<Handle> for Control {
    fn from_ref(handle: &Handle) -> Self {
        handle.control().clone()
    }
}

/// The kept `entries` of `total` entries, without the first `count`.
pub(super) fn after<'a, T: Clone + 'a>(
    entries: impl DoubleEndedIterator<Item = &'a T>,
    total: u64,
    count: u64,
) -> Vec<T> {
    let new = usize::try_from(total.saturating_sub(count)).unwrap_or(usize::MAX);
    let mut latest: Vec<T> = entries.rev().take(new).cloned().collect();
    latest.reverse();
    latest
}

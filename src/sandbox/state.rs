//! What a running sandbox knows, shared by its handlers, by tests, and by the demo.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::Method;
use secrecy::SecretString;
use tokio::sync::watch;
use url::Url;

use super::{
    faults::{Endpoint, Fault, FaultRule, Faults, RULES_MAX, Shown},
    keys::Keys,
    records::{Arrival, Call, Link, Message, Role, Text},
    ring::Ring,
};

/// Entries kept of each kind; counters go on. What is larger than [`KEPT_BYTES`] together is kept less long.
pub const KEPT: usize = 100_000;
/// Bytes kept of each kind, so that 100,000 entries of 2.5 KiB fit.
pub const KEPT_BYTES: usize = 256 * 1024 * 1024;
/// As in the Guide's examples, `ckmNR7I`.
const CODE_CHARS: usize = 7;

/// A view of a running sandbox, and the switches of its faults. Clones show the same sandbox.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    keys: Keys,
    url: Url,
    base_url: Url,
    token: Mutex<SecretString>,
    faults: Mutex<Faults>,
    log: Mutex<Log>,
    version: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

struct Log {
    calls: Ring<Call>,
    messages: Ring<Message>,
    texts: Ring<Text>,
    arrivals: Ring<Arrival>,
    link_order: Ring<String>,
    links: HashMap<String, Link>,
    counts: Counts,
}

/// How many there were since the sandbox started, also of what it no longer keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Requests to `joseencrypt`, whatever became of them.
    pub joseencrypt: u64,
    /// Requests to the Messages API, whatever became of them.
    pub message_requests: u64,
    /// Requests to the People API, whatever became of them.
    pub people: u64,
    /// [`Call`]s.
    pub calls: u64,
    /// [`Message`]s.
    pub messages: u64,
    /// [`Text`]s.
    pub texts: u64,
    /// [`Link`]s.
    pub links: u64,
}

impl Handle {
    pub(super) fn new(keys: Keys, token: SecretString, url: Url, base_url: Url) -> Self {
        let log = Log {
            calls: Ring::new(KEPT, KEPT_BYTES),
            messages: Ring::new(KEPT, KEPT_BYTES),
            texts: Ring::new(KEPT, KEPT_BYTES),
            arrivals: Ring::new(KEPT, KEPT_BYTES),
            link_order: Ring::new(KEPT, KEPT_BYTES),
            links: HashMap::new(),
            counts: Counts::default(),
        };
        Self(Arc::new(Shared {
            keys,
            url,
            base_url,
            token: Mutex::new(token),
            faults: Mutex::default(),
            log: Mutex::new(log),
            version: watch::Sender::new(0),
            closing: watch::Sender::new(false),
        }))
    }

    /// Every `joseencrypt` request that passed authorisation and validation, oldest first, the latest
    /// [`KEPT`] at most.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.log().calls.iter().cloned().collect()
    }

    /// The short links that `GET /visit/{code}` knows, by code; the latest [`KEPT`] at most.
    #[must_use]
    pub fn links(&self) -> HashMap<String, Link> {
        self.log().links.clone()
    }

    /// One of the short links.
    #[must_use]
    pub fn link(&self, code: &str) -> Option<Link> {
        self.log().links.get(code).cloned()
    }

    /// The Webex messages posted, oldest first, the latest [`KEPT`] at most.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.log().messages.iter().cloned().collect()
    }

    /// The texts delivered to phones, oldest first, the latest [`KEPT`] at most.
    #[must_use]
    pub fn texts(&self) -> Vec<Text> {
        self.log().texts.iter().cloned().collect()
    }

    /// Puts a text on a guest's phone.
    pub fn deliver_text(&self, text: Text) {
        let bytes =
            size_of::<Text>() + text.to.len() + text.url.len() + text.name.as_ref().map_or(0, String::len);
        self.change(|log| {
            log.counts.texts += 1;
            log.texts.push(text, bytes);
        });
    }

    /// From now on this token is accepted and the one before is refused with 401.
    pub fn set_token(&self, token: SecretString) {
        *lock(&self.0.token) = token;
    }

    /// Adds a rule behind those that are there; the first that fires decides.
    pub fn fault(&self, rule: FaultRule) {
        lock(&self.0.faults).add(rule);
        self.change(|_| ());
    }

    /// Ends all faults. Requests that hang or are delayed already stay so.
    pub fn clear_faults(&self) {
        lock(&self.0.faults).clear();
        self.change(|_| ());
    }

    /// How many requests came to the endpoint, also the refused and the faulted ones.
    #[must_use]
    pub fn requests(&self, endpoint: Endpoint) -> u64 {
        let counts = self.counts();
        match endpoint {
            Endpoint::JoseEncrypt => counts.joseencrypt,
            Endpoint::Messages => counts.message_requests,
            Endpoint::People => counts.people,
            Endpoint::Any => counts.joseencrypt + counts.message_requests + counts.people,
        }
    }

    /// When they came, oldest first, the latest [`KEPT`] of all endpoints at most.
    #[must_use]
    pub fn arrivals(&self, endpoint: Endpoint) -> Vec<Arrival> {
        self.log().arrivals.iter().filter(|arrival| endpoint.covers(arrival.endpoint)).cloned().collect()
    }

    /// All counters at one instant.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.log().counts
    }

    /// Resolves at the first change of anything above after **this call**, not after the first poll: take the
    /// future, look at the state, then await it, and no change is missed. [`Self::until`] does that.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut version = self.0.version.subscribe();
        let keep_alive = self.clone();
        async move {
            // It fails only without a sender, and that one is kept alive here.
            let _ = version.changed().await;
            drop(keep_alive);
        }
    }

    /// Resolves as soon as the condition holds; looks at it now and after every change.
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

/// For the handlers.
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

    /// Goes up with every change.
    pub(super) fn version(&self) -> u64 {
        *self.0.version.borrow()
    }

    /// Counts a request and draws its fault.
    pub(super) fn arrive(&self, endpoint: Endpoint, method: &Method) -> Option<Fault> {
        let fault = lock(&self.0.faults).pick(endpoint);
        let arrival =
            Arrival { at: Instant::now(), endpoint, method: method.to_string(), fault: fault.clone() };
        self.change(|log| {
            let count = match endpoint {
                Endpoint::JoseEncrypt => &mut log.counts.joseencrypt,
                Endpoint::People => &mut log.counts.people,
                Endpoint::Messages | Endpoint::Any => &mut log.counts.message_requests,
            };
            *count += 1;
            log.arrivals.push(arrival, size_of::<Arrival>());
        });
        fault
    }

    pub(super) fn add_call(&self, call: Call) {
        let bytes = size_of::<Call>() + call.sub.len() + call.devices.iter().map(String::len).sum::<usize>();
        self.change(|log| {
            log.counts.calls += 1;
            log.calls.push(call, bytes);
        });
    }

    /// Gives the link a code that no other live link has, and remembers it.
    pub(super) fn add_link(&self, mut link: Link) -> String {
        let devices = link.devices.iter().map(String::len).sum::<usize>();
        let bytes = size_of::<Link>() + link.target.len() + link.sub.len() + devices;
        self.change(|log| {
            let code = loop {
                let code: String = (0..CODE_CHARS).map(|_| fastrand::alphanumeric()).collect();
                if !log.links.contains_key(&code) {
                    break code;
                }
            };
            link.code.clone_from(&code);
            log.counts.links += 1;
            log.links.insert(code.clone(), link);
            for gone in log.link_order.push(code.clone(), bytes) {
                log.links.remove(&gone);
            }
            code
        })
    }

    pub(super) fn add_message(&self, message: Message, bytes: usize) {
        self.change(|log| {
            log.counts.messages += 1;
            log.messages.push(message, size_of::<Message>() + bytes);
        });
    }

    /// The messages that `take` wants, newest first, `max` at most.
    pub(super) fn find_messages(&self, max: usize, take: impl FnMut(&&Message) -> bool) -> Vec<Message> {
        self.log().messages.iter().rev().filter(take).take(max).cloned().collect()
    }

    /// The latest calls and texts, newest first, for the page.
    pub(super) fn latest(&self, max: usize) -> (Vec<Call>, Vec<Text>) {
        let log = self.log();
        (
            log.calls.iter().rev().take(max).cloned().collect(),
            log.texts.iter().rev().take(max).cloned().collect(),
        )
    }

    pub(super) fn link_role(&self, code: &str) -> Option<Role> {
        self.log().links.get(code).map(|link| link.role)
    }

    pub(super) fn shown_faults(&self) -> Vec<Shown> {
        lock(&self.0.faults).shown()
    }

    pub(super) fn too_many_faults(&self) -> bool {
        lock(&self.0.faults).len() >= RULES_MAX
    }

    /// Waits so long, or until the sandbox closes: a fault must not hold up its end.
    pub(super) async fn pause(&self, length: Duration) {
        let _ = tokio::time::timeout(length, self.closing()).await;
    }

    pub(super) fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Resolves when [`Self::close`] was called.
    pub(super) async fn closing(&self) {
        // It fails only without a sender, and `self` has one.
        let _ = self.0.closing.subscribe().wait_for(|closing| *closing).await;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.0.log)
    }

    fn change<T>(&self, act: impl FnOnce(&mut Log) -> T) -> T {
        let done = act(&mut self.log());
        self.0.version.send_modify(|version| *version += 1);
        done
    }
}

/// A handler that panicked has left its log whole: every change is a few pushes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

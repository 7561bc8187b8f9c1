//! Records of a sandbox: the latest entries, and total counts.

use std::collections::HashMap;

use super::{
    faults::Endpoint,
    records::{Arrival, RecordedCall, RecordedLink, RecordedMessage, Text},
    ring::Ring,
};

/// Maximum number of entries of each kind; the counters continue. [`KEPT_BYTES`] can reduce this number.
pub const KEPT: usize = 100_000;
/// Maximum size of the entries of each kind, in bytes; 100,000 entries of 2.5 KiB fit.
pub const KEPT_BYTES: usize = 256 * 1024 * 1024;
/// Length of short codes, as in the Guide's example `ckmNR7I`.
const CODE_CHARS: usize = 7;

/// All records, oldest first.
pub(super) struct Log {
    pub(super) calls: Ring<RecordedCall>,
    pub(super) messages: Ring<RecordedMessage>,
    pub(super) texts: Ring<Text>,
    pub(super) arrivals: Ring<Arrival>,
    link_order: Ring<String>,
    pub(super) links: HashMap<String, RecordedLink>,
    pub(super) counts: LogCounts,
}

/// Counts since the start of the sandbox, including entries that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogCounts {
    /// All requests to `joseencrypt`, including failed requests.
    pub joseencrypt: u64,
    /// All requests to the Messages API, including failed requests.
    pub message_requests: u64,
    /// All requests to the People API, including failed requests.
    pub people: u64,
    /// [`RecordedCall`]s.
    pub calls: u64,
    /// [`RecordedMessage`]s.
    pub messages: u64,
    /// [`Text`]s.
    pub texts: u64,
    /// [`RecordedLink`]s.
    pub links: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            calls: Ring::new(KEPT, KEPT_BYTES),
            messages: Ring::new(KEPT, KEPT_BYTES),
            texts: Ring::new(KEPT, KEPT_BYTES),
            arrivals: Ring::new(KEPT, KEPT_BYTES),
            link_order: Ring::new(KEPT, KEPT_BYTES),
            links: HashMap::new(),
            counts: LogCounts::default(),
        }
    }

    pub(super) fn add_arrival(&mut self, arrival: Arrival) {
        let count = match arrival.endpoint {
            Endpoint::JoseEncrypt => &mut self.counts.joseencrypt,
            Endpoint::People => &mut self.counts.people,
            Endpoint::Messages => &mut self.counts.message_requests,
            // These have no requests on this server.
            Endpoint::Any | Endpoint::Sms | Endpoint::WhatsApp | Endpoint::Event | Endpoint::Receipts => {
                return;
            }
        };
        *count += 1;
        self.arrivals.push(arrival, size_of::<Arrival>());
    }

    pub(super) fn add_call(&mut self, call: RecordedCall) {
        let bytes = size_of::<RecordedCall>() + call.sub.len() + lengths(&call.devices);
        self.counts.calls += 1;
        self.calls.push(call, bytes);
    }

    pub(super) fn add_link(&mut self, mut link: RecordedLink) -> String {
        let bytes = size_of::<RecordedLink>() + link.target.len() + link.sub.len() + lengths(&link.devices);
        let code = loop {
            let code: String = (0..CODE_CHARS).map(|_| fastrand::alphanumeric()).collect();
            if !self.links.contains_key(&code) {
                break code;
            }
        };
        link.code.clone_from(&code);
        self.counts.links += 1;
        self.links.insert(code.clone(), link);
        for removed in self.link_order.push(code.clone(), bytes) {
            self.links.remove(&removed);
        }
        code
    }

    pub(super) fn add_message(&mut self, message: RecordedMessage, bytes: usize) {
        self.counts.messages += 1;
        self.messages.push(message, size_of::<RecordedMessage>() + bytes);
    }

    pub(super) fn add_text(&mut self, text: Text) {
        let optional = [&text.name, &text.body, &text.button].into_iter().flatten().map(String::len);
        let bytes =
            size_of::<Text>() + text.channel.len() + text.to.len() + text.url.len() + optional.sum::<usize>();
        self.counts.texts += 1;
        self.texts.push(text, bytes);
    }
}

fn lengths(texts: &[String]) -> usize {
    texts.iter().map(|text| size_of::<String>() + text.len()).sum()
}

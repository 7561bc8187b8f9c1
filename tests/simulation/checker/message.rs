//! The observed state of one message that a stage consumes.

use std::collections::BTreeSet;

use instant_connect_worker::{outcome::Class, stages};
use jiff::Timestamp;
use uuid::Uuid;

use super::guests::GuestChecks;

/// State of one message that a stage consumes.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each field is one observation")]
pub(super) struct SeenMessage {
    pub(super) name: String,
    /// The name of the stage.
    pub(super) stage: &'static str,
    /// The subject of the stage's calls: a session, an expert or a guest's number.
    pub(super) key: String,
    pub(super) event: usize,
    pub(super) room: bool,
    pub(super) deadline: Option<Timestamp>,
    /// Number of times that others stored the message in its queue.
    pub(super) inputs: u32,
    /// Number of acks or confirms that may have been lost.
    pub(super) excuses: u32,
    /// How many of them were deliveries taken back from a running worker, which still receives and records the confirms.
    pub(super) excused_alive: u32,
    pub(super) acks: u32,
    pub(super) open: u32,
    /// Copies in delay queues and the dead queue, and how many of them an ack has used.
    pub(super) copies: u32,
    pub(super) spent: u32,
    pub(super) dead: Vec<Class>,
    /// The time before which the last copy in a delay queue must not be tried.
    pub(super) not_before: Option<Timestamp>,
    /// Calls that failed.
    pub(super) failures: u32,
    /// Failures between which another event was processed, so that an attempt may be counted.
    pub(super) own_failures: u32,
    /// The same for refused tokens. The second in a row may be caused by the event itself.
    pub(super) own_refusals: u32,
    /// A call failed in this life of the worker; another event was processed after it.
    pub(super) failed: bool,
    pub(super) processed_since: bool,
    /// The last unsettled failure that may be the API's: true if the token was refused.
    pub(super) unclear: Option<bool>,
    /// The end of a rate limit from a response that is not settled yet.
    pub(super) no_call_until: Option<Timestamp>,
    pub(super) refused: bool,
    /// The last request for the messages sent to its expert was refused.
    pub(super) list_refused: bool,
    pub(super) unroutable: bool,
    /// Workers that died while they processed the message.
    pub(super) deaths: u32,
    /// The link messages whose confirm the worker received since the last delivery.
    pub(super) confirmed: BTreeSet<Uuid>,
    /// A delivery of this life was taken back, and its work may still publish.
    pub(super) may_publish_late: bool,
    pub(super) copy_confirmed: bool,
    /// Effects at the API, and true if the worker may not know of the last one.
    pub(super) effects: u32,
    pub(super) unknown_effect: bool,
    /// The ledger's note how often a host link may have been sent.
    pub(super) host_sends: u32,
    /// The end of the first links for which devices were called, in seconds since the epoch.
    pub(super) devices_until: Option<i64>,
    /// The worker knows of that call; the ledger has a note of the call.
    pub(super) devices_known: bool,
    pub(super) noted: bool,
    /// The ledger has the result: all links are published, or the expert has the message.
    pub(super) recorded: bool,
    /// Number of times that the result may not be recorded because the ledger failed or the worker died.
    pub(super) unrecorded: u32,
    pub(super) delivered_at: Vec<Timestamp>,
    /// The number of copies at each delivery.
    pub(super) alike: Vec<(Timestamp, usize)>,
    pub(super) called_at: Vec<Timestamp>,
    /// The ledger knows that a request for the event was accepted.
    pub(super) request_recorded: bool,
    /// The observations of a message to a guest.
    pub(super) guest: Option<GuestChecks>,
}

impl SeenMessage {
    /// True if the message is a start event, false if it is a link.
    pub(super) fn is_event(&self) -> bool {
        self.stage == stages::LINK.name
    }

    /// The highest number of attempts that may be counted.
    pub(super) const fn attempts_max(&self) -> u32 {
        self.own_failures + self.own_refusals.saturating_sub(1)
    }

    /// Records a failed call for the message.
    pub(super) const fn record_failure(&mut self, refused: bool) {
        if self.failed && self.processed_since {
            self.count_own_failure(refused);
        } else if self.failed {
            self.unclear = Some(refused);
        }
        (self.failed, self.processed_since) = (true, false);
    }

    /// Records a processed call for another message.
    pub(super) const fn record_other_processed(&mut self) {
        self.processed_since = true;
        if let Some(refused) = self.unclear.take() {
            self.count_own_failure(refused);
        }
    }

    const fn count_own_failure(&mut self, refused: bool) {
        if refused { self.own_refusals += 1 } else { self.own_failures += 1 }
    }

    /// Records that the worker ended, which may not know of the last effect.
    pub(super) fn worker_ended(&mut self) {
        self.unknown_effect |= self.effects > 0;
        self.devices_known = false;
        // The worker was still processing a delivery whose connection had broken.
        self.deaths += u32::from(self.may_publish_late && self.open == 0);
        self.may_publish_late = false;
        (self.failed, self.unclear, self.no_call_until) = (false, None, None);
        self.unrecorded += u32::from(!self.recorded);
    }
}

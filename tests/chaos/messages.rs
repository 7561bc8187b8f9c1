//! Checks of the messages to guests and experts.

use std::hash::{DefaultHasher, Hash, Hasher};

use instant_connect_sandbox::{Handle, RecordedMessage, RecordedRole};
use serde_json::Value;
use testkit::rig::BASE_URL;

use super::{
    event::{Kind, Start},
    history::Inner,
};

impl Inner {
    /// Records the dead letter of a message that may have been sent as often as allowed. Returns false for any other dead letter.
    pub(super) fn finish_guest(
        &mut self,
        queue: &str,
        start: Start,
        class: &str,
        reason: &str,
        body: &[u8],
    ) -> bool {
        if class != "exhausted" || !reason.contains("may have been sent") || !queue.starts_with("guests.") {
            return false;
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(guest) = (0..start.guests()).find(|guest| body["to"] == start.number(*guest)) else {
            return false;
        };
        self.edges.count_dead();
        self.records[start.0 as usize].guests[guest as usize].dead = true;
        self.finish(start);
        true
    }

    /// Records a message to a guest.
    pub(super) fn see_guest(&mut self, start: Start, guest: u32, id: &str, short: &str) {
        let seen = &mut self.records[start.0 as usize].guests[guest as usize];
        let (id, url) = (hash(id), hash(short));
        seen.times += 1;
        if seen.times == 1 {
            (seen.id, seen.url) = (id, url);
            return;
        }
        self.repeated_same_id += u64::from(seen.id == id);
        self.repeated_other_id += u64::from(seen.id != id);
        self.other_link += u64::from(seen.url != url);
    }
}

/// Checks and records a guest link.
pub(super) fn guest_link(
    inner: &mut Inner,
    message_id: &str,
    redelivered: bool,
    body: &[u8],
    sandbox: &Handle,
) -> Result<(), String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let start = Start::of(body["sessionId"].as_str(), "chaos-").filter(|start| inner.sent(*start));
    let start = start.ok_or_else(|| format!("a guest link for {}", body["sessionId"]))?;
    let guest = (0..start.guests()).find(|guest| body["to"] == start.number(*guest));
    let guest = guest.ok_or_else(|| format!("{} has a link for {}", start.id(), body["to"]))?;
    let short = body["short"].as_str().unwrap_or_default();
    let link =
        sandbox.link(short).ok_or_else(|| format!("{}: the API never made link {short}", start.id()))?;
    let right = start.kind() == Kind::Good
        && body["eventId"] == start.id()
        && body["channel"] == Start::channel(guest)
        && body["url"] == format!("{BASE_URL}{short}")
        && body.get("expert").is_none()
        && (link.role, &link.sub) == (RecordedRole::Guest, &start.session());
    if !right {
        return Err(format!("{}: {:?} link of {} in {body}", start.id(), link.role, link.sub));
    }
    let seen = &mut inner.records[start.0 as usize].guests[guest as usize];
    if seen.times > 0 && redelivered && (seen.id, seen.url) == (hash(message_id), hash(short)) {
        seen.times += 1;
        inner.redelivered += 1;
    } else {
        inner.see_guest(start, guest, message_id, short);
    }
    inner.finish(start);
    Ok(())
}

/// Checks and records a message to an expert.
pub(super) fn host_message(
    inner: &mut Inner,
    message: &RecordedMessage,
    sandbox: &Handle,
) -> Result<(), String> {
    let email = message.to_person_email.as_deref().unwrap_or_default();
    let start = Start::of(email.strip_suffix("@example.com"), "expert-");
    let start = start.filter(|start| inner.sent(*start)).ok_or_else(|| format!("a message to {email}"))?;
    let url = message.attachments.first().and_then(|card| card["content"]["actions"][0]["url"].as_str());
    let short = url.and_then(|url| url.strip_prefix(BASE_URL)).unwrap_or_default();
    let link = sandbox.link(short).ok_or_else(|| format!("{email}: the API never made link {short}"))?;
    if start.kind() != Kind::Good || (link.role, &link.sub) != (RecordedRole::Host, &start.session()) {
        return Err(format!("{email} got a {:?} link of {}", link.role, link.sub));
    }
    let record = &mut inner.records[start.0 as usize];
    let (cut, url) = (record.host_cut, hash(short));
    record.host.times += 1;
    record.host_cut = message.fault.is_some();
    if record.host.times == 1 {
        record.host.url = url;
        if let (Some((what, since)), Some(called)) = (inner.recovering, record.called)
            && called >= since
        {
            inner.recovering = None;
            inner.faults.entry(what).or_default().recovered.push(since.elapsed().as_secs_f64());
        }
    } else {
        inner.other_link += u64::from(record.host.url != url);
        let count = if cut { &mut inner.hosts_repeated_cut } else { &mut inner.hosts_repeated };
        *count += 1;
    }
    inner.finish(start);
    Ok(())
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

//! The rules of a start event that its types do not enforce.

use jiff::Timestamp;

use super::{Attributes, StartSession};
use crate::contract::{
    decode::{Invalid, Problem},
    people::{self, Expert, Guest, NAME_CHARS_MAX, Name},
};

/// Maximum total size of the keys and values of `attributes`, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024;
/// Maximum number of guests and experts of one session, in total. Each call serves 25 of them, and all calls must finish within
/// minutes.
pub const PEOPLE_MAX: usize = 1000;
/// Maximum number of devices of one session.
pub const DEVICES_MAX: usize = 100;
/// Maximum total size of the device addresses of one session, in bytes. Each link of the first call contains all addresses,
/// encrypted. This limit keeps the response within the default of `instant_connect.body_bytes_max`, and all long links of a
/// session within the ledger's limit for one event.
pub const DEVICES_BYTES_MAX: usize = 16 * 1024;
/// Maximum total size of the event data in all its links, in bytes. Each link echoes `correlationId` and `attributes`, and each
/// host link names all guests. Without a limit, one event of 256 KiB could become hundreds of MiB of links.
pub const ECHO_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum length of a `sessionId`, in characters.
pub(super) const SESSION_ID_CHARS_MAX: usize = 128;

/// Checks the rules that the types do not enforce, at the time `now`.
///
/// # Errors
/// [`Invalid`], without values from the event.
pub fn check(start: &StartSession, now: Timestamp) -> Result<(), Invalid> {
    if !is_session_id(&start.session_id) {
        return Err(Invalid::new(
            "sessionId",
            format!(
                "expected 1 to {SESSION_ID_CHARS_MAX} characters, not all blank, and no control characters"
            ),
        ));
    }
    if start.guests.is_empty() {
        return Err(Invalid::new("guests", "expected at least one guest"));
    }
    if start.experts.is_empty() {
        return Err(Invalid::new("experts", "expected at least one expert"));
    }
    if start.guests.len() + start.experts.len() > PEOPLE_MAX {
        return Err(Invalid::new(
            "guests",
            format!("expected at most {PEOPLE_MAX} guests and experts in total"),
        ));
    }
    let devices = start.devices.as_deref().unwrap_or_default();
    if devices.len() > DEVICES_MAX {
        return Err(Invalid::new("devices", format!("expected at most {DEVICES_MAX} devices")));
    }
    if devices.iter().map(|device| device.reveal().len()).sum::<usize>() > DEVICES_BYTES_MAX {
        return Err(Invalid::new(
            "devices",
            format!("expected device addresses of at most {DEVICES_BYTES_MAX} bytes in total"),
        ));
    }
    for (position, expert) in start.experts.iter().enumerate() {
        let within = |invalid: Invalid| invalid.within(&format!("experts[{position}]"));
        expert.address().map_err(within)?;
        check_name(expert.name.as_ref()).map_err(within)?;
    }
    for (position, guest) in start.guests.iter().enumerate() {
        check_name(guest.name.as_ref()).map_err(|invalid| invalid.within(&format!("guests[{position}]")))?;
    }
    if let Some(expires_at) = start.expires_at {
        if expires_at.timestamp() <= now {
            return Err(Invalid::new("expiresAt", Problem::NotInTheFuture));
        }
        if start.not_before.is_some_and(|not_before| not_before >= expires_at) {
            return Err(Invalid::new("expiresAt", "expected a time after notBefore"));
        }
    }
    let bytes = bytes_of(start.attributes.as_ref());
    if bytes > ATTRIBUTES_BYTES_MAX {
        return Err(Invalid::new("attributes", Problem::TooLarge { bytes, max: ATTRIBUTES_BYTES_MAX }));
    }
    let echoed = echoed(start, bytes);
    if echoed > ECHO_BYTES_MAX {
        let problem = Problem::EchoTooLarge { bytes: echoed, max: ECHO_BYTES_MAX };
        return Err(Invalid::new("correlationId", problem));
    }
    Ok(())
}

/// True if `text` is a valid session id. A blank id comes from an unset variable of a flow: all its sessions would share one
/// meeting.
fn is_session_id(text: &str) -> bool {
    let length = text.chars().count();
    (1..=SESSION_ID_CHARS_MAX).contains(&length)
        && !people::is_blank(text)
        && !text.chars().any(char::is_control)
}

fn check_name(name: Option<&Name>) -> Result<(), Invalid> {
    if name.is_some_and(|name| name.reveal().chars().count() > NAME_CHARS_MAX) {
        return Err(Invalid::new("name", format!("expected at most {NAME_CHARS_MAX} characters")));
    }
    Ok(())
}

/// Total size of the event data in all links, in bytes. `attributes` is the size of the attributes.
fn echoed(start: &StartSession, attributes: usize) -> usize {
    let correlation = start.correlation_id.as_ref().map_or(0, |id| id.reveal().len());
    repeated(&start.guests, &start.experts, start.session_id.len() + correlation + attributes)
}

/// Total size of the data that all links repeat: `each` per link, and the guests' names per host link.
pub(super) fn repeated(guests: &[Guest], experts: &[Expert], each: usize) -> usize {
    let names = guests.iter().filter_map(|guest| guest.name.as_ref()).map(|name| name.reveal().len());
    (guests.len() + experts.len()) * each + experts.len() * names.sum::<usize>()
}

pub(super) fn bytes_of(attributes: Option<&Attributes>) -> usize {
    attributes.into_iter().flatten().map(|(key, value)| key.len() + value.reveal().len()).sum()
}

//! Webex Connect's own codes ("Channel-specific status codes" in its developer reference). A response has one whatever its HTTP
//! status is.

/// The API that responds with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectApi {
    /// One of the messaging APIs.
    Messages,
    /// Custom events.
    Event,
}

/// Meaning of a code for the message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Webex Connect has the message.
    Accepted,
    /// A failure of Webex Connect or of the channel that passes.
    Passing,
    /// Too many messages.
    RateLimited,
    /// Webex Connect refuses every message until somebody changes the key or the account.
    Account,
    /// Webex Connect refuses this message.
    Rejected,
    /// The message came too late.
    Expired,
}

use Meaning::{Accepted, Account, Expired, Passing, RateLimited, Rejected};

/// Each code, its meaning, and words for people.
const CODES: &[(u32, Meaning, &str)] = &[
    (1001, Accepted, "accepted"),
    (1002, Accepted, "accepted"),
    (7000, Rejected, "the request is invalid JSON (bug)"),
    (7001, Account, "authentication failed: check webex_connect.key or .jwt_secret"),
    (7002, Account, "the key is missing: check webex_connect.key or .jwt_secret"),
    (7003, Rejected, "a mandatory field is missing"),
    (7004, Rejected, "a field has an invalid value"),
    (7005, Expired, "the message has expired"),
    (7006, Passing, "internal error"),
    (7007, Account, "the service is not active: check it in Webex Connect"),
    (7009, Rejected, "too many destinations"),
    (7010, Account, "this worker's address is not on the tenant's list: add it in Tenant Settings"),
    (7019, Expired, "the event has expired"),
    (7020, RateLimited, "rate limit of the tenant"),
    (7022, Rejected, "the request is too large"),
    (
        7025,
        Rejected,
        "a mandatory parameter of the event is missing: compare the event in Webex Connect with docs/guests.md",
    ),
    (7101, Rejected, "the sender is not allowed: check webex_connect.sms_from"),
    (7102, Rejected, "the address is invalid"),
    (7104, Rejected, "the app id is invalid: check webex_connect.whatsapp_app_id"),
    (7107, Rejected, "the text is too long"),
    (7108, Rejected, "the template is invalid: check webex_connect.whatsapp_templates"),
    (7126, Rejected, "the content type is invalid"),
    (7127, Account, "this worker's address is not on the tenant's list: add it in Tenant Settings"),
    (7500, Accepted, "delivered"),
    (7501, Accepted, "submitted"),
    (7502, Accepted, "read"),
    (7703, Account, "the WhatsApp account is unpaid"),
    (7704, Expired, "the message was pending for too long"),
    (7705, Expired, "the message has expired"),
    (7706, RateLimited, "rate limit of WhatsApp"),
    (7710, Rejected, "only a template may be sent now"),
    (7711, Rejected, "WhatsApp treats it as spam"),
    (7713, Passing, "WhatsApp is unavailable"),
    (7714, Rejected, "WhatsApp refuses the message"),
    (7726, Rejected, "WhatsApp cannot deliver to this person"),
    (7729, Passing, "WhatsApp is unavailable"),
    (7730, Passing, "WhatsApp is unavailable"),
    (7731, Passing, "WhatsApp is unavailable"),
    (7733, Rejected, "the recipient is the sender"),
    (7802, Rejected, "the person's phone has changed"),
    (7803, Account, "the WhatsApp account is locked"),
    (7804, Rejected, "the template has other parameters: check webex_connect.whatsapp_parameters"),
    (7805, Rejected, "the template does not exist: check webex_connect.whatsapp_templates"),
    (7808, Rejected, "a parameter of the template is invalid"),
    (7809, Rejected, "a parameter of the template is invalid"),
    (7810, Rejected, "a parameter of the template is invalid"),
    (7811, Rejected, "a parameter of the template is invalid"),
    (7812, Rejected, "a parameter of the template is invalid"),
    (7813, Rejected, "the link is invalid"),
    (7814, Rejected, "a parameter of the template is invalid"),
    (7815, Rejected, "a parameter of the template is invalid"),
    (7816, Rejected, "a parameter of the template is invalid"),
    (7832, Account, "the WhatsApp account is restricted"),
    (7833, Passing, "WhatsApp is unavailable"),
    (7834, Passing, "WhatsApp is unavailable"),
    (7836, RateLimited, "rate limit of WhatsApp"),
    (7837, Account, "the WhatsApp account is restricted"),
    (7838, Rejected, "WhatsApp refuses the template"),
    (7839, Account, "the WhatsApp account is restricted"),
    (7840, Account, "the WhatsApp account is restricted"),
    (7842, Account, "the WhatsApp account is restricted"),
    (7845, RateLimited, "rate limit of WhatsApp"),
    (7846, Passing, "WhatsApp is unavailable"),
    (7849, Rejected, "the template does not exist: check webex_connect.whatsapp_templates"),
    (7854, Passing, "WhatsApp is unavailable"),
    (7860, Account, "the WhatsApp account is restricted"),
    (7862, Rejected, "the person's phone has changed"),
    (7865, Rejected, "the number is not registered"),
    (7868, Rejected, "the template is disabled: check it in Webex Connect"),
    (7869, Rejected, "the template is paused: check it in Webex Connect"),
    (7870, Passing, "WhatsApp is unavailable"),
    (7871, Rejected, "WhatsApp cannot deliver to this person"),
    (7872, Rejected, "WhatsApp does not deliver to this person (experiment)"),
    (7874, RateLimited, "rate limit of WhatsApp"),
    (9000, Rejected, "refused by the contact policy"),
    (9001, Rejected, "refused by the contact policy"),
    (9002, Rejected, "the contact policy has no consent of this person"),
    (9003, Rejected, "refused by the contact policy"),
    (9004, Passing, "the contact policy is unavailable"),
    (9005, Rejected, "refused by the contact policy"),
    (9006, Rejected, "the contact policy's message limit is reached"),
    (9007, Rejected, "refused by the contact policy"),
    (9008, Rejected, "refused by the contact policy"),
    (9009, Rejected, "refused by the contact policy"),
    (9010, Expired, "the message has expired"),
];

/// Codes that have another meaning for custom events.
const EVENT_CODES: &[(u32, Meaning, &str)] = &[(7005, Passing, "internal error")];

/// The meaning of `code` in a response of `api`, with words for people; `None` for a code that this program does not know.
pub(super) fn meaning(api: ConnectApi, code: u32) -> Option<(Meaning, &'static str)> {
    if api == ConnectApi::Event
        && let Some((_, meaning, words)) = EVENT_CODES.iter().find(|(known, ..)| *known == code)
    {
        return Some((*meaning, words));
    }
    let at = CODES.binary_search_by_key(&code, |(known, ..)| *known).ok()?;
    Some((CODES[at].1, CODES[at].2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found() {
        assert!(CODES.is_sorted_by(|(a, ..), (b, ..)| a < b));
        for (code, expected, words) in CODES {
            assert_eq!(meaning(ConnectApi::Messages, *code), Some((*expected, *words)));
        }
        for api in [ConnectApi::Messages, ConnectApi::Event] {
            assert_eq!(meaning(api, 7999), None);
            assert_eq!(meaning(api, 7006).unwrap().0, Passing);
        }
        assert_eq!(meaning(ConnectApi::Messages, 7005).unwrap().0, Expired);
        assert_eq!(meaning(ConnectApi::Event, 7005).unwrap().0, Passing);
    }
}

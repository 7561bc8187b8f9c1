//! Constants of Webex Connect: limits of requests, codes, and times of its outbound webhooks.

use std::{ops::RangeInclusive, time::Duration};

/// Destinations of one request.
pub(super) const DESTINATIONS_MAX: usize = 1000;
/// Digits of a phone number (E.164).
pub(super) const NUMBER_DIGITS: RangeInclusive<usize> = 7..=15;
/// Characters of an alphanumeric sender (3GPP TS 23.040, section 9.1.2.5).
pub(super) const SENDER_ID_CHARS_MAX: usize = 11;
/// Length of a correlation id. Only the v1 APIs document it; the sandbox applies it to v2, too.
pub(super) const CORRELATION_ID_BYTES_MAX: usize = 50;
/// Characters of an SMS.
pub(super) const SMS_CHARS_MAX: usize = 4000;
/// `validity` of an SMS in seconds; the end is 72 hours.
pub(super) const VALIDITY_S: RangeInclusive<i64> = 1..=259_200;
/// Latest `expireAt` of an SMS.
pub(super) const EXPIRE_AT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Characters of `callbackData`.
pub(super) const CALLBACK_CHARS_MAX: usize = 2000;
/// Characters of a filled WhatsApp template.
pub(super) const TEMPLATE_CHARS_MAX: usize = 1024;
/// Spaces in a row within a parameter of a template.
pub(super) const SPACES_MAX: usize = 4;
/// Lifetime of a JWT, counted from `iat`.
pub(super) const JWT_LIFETIME_S: i64 = 60 * 60;
/// Difference of the clocks that is allowed for a JWT's `iat`.
pub(super) const JWT_SKEW_S: i64 = 60;
/// Keys of a service that are valid at once, and secrets.
pub(super) const CREDENTIALS_MAX: usize = 2;

/// Default time limit of a receipt's request.
pub(super) const RECEIPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Default number of retries of a receipt.
pub(super) const RECEIPT_RETRIES: u32 = 3;
/// Default time between two attempts to send a receipt.
pub(super) const RECEIPT_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// True for the statuses of a webhook after which its receipt is not sent again, except 200.
pub(super) const fn is_final_for_receipt(status: u16) -> bool {
    matches!(status, 202..=208 | 226 | 300..=308 | 400 | 402 | 404..=411 | 414..=416 | 418 | 505)
}
/// Messages whose receipts can wait. The receipts of further messages are dropped.
pub(super) const WAITING_RECEIPTS_MAX: usize = 10_000;
/// Messages whose receipts are sent at the same time.
pub(super) const CONCURRENT_RECEIPTS_MAX: usize = 1000;

/// Webex Connect's codes.
pub(super) mod code {
    pub(crate) const QUEUED: &str = "1001";
    pub(crate) const EVENT_QUEUED: &str = "1002";
    pub(crate) const INVALID_JSON: u32 = 7000;
    pub(crate) const AUTHENTICATION: u32 = 7001;
    pub(crate) const KEY_MISSING: u32 = 7002;
    pub(crate) const MISSING: u32 = 7003;
    pub(crate) const INVALID: u32 = 7004;
    pub(crate) const MESSAGE_EXPIRED: u32 = 7005;
    pub(crate) const INTERNAL: u32 = 7006;
    pub(crate) const TOO_MANY_DESTINATIONS: u32 = 7009;
    pub(crate) const EVENT_EXPIRED: u32 = 7019;
    pub(crate) const TOO_LARGE: u32 = 7022;
    pub(crate) const EVENT_PARAMETER_MISSING: u32 = 7025;
    pub(crate) const SENDER: u32 = 7101;
    pub(crate) const ADDRESS: u32 = 7102;
    pub(crate) const APP_ID: u32 = 7104;
    pub(crate) const LENGTH: u32 = 7107;
    pub(crate) const TEMPLATE_ID: u32 = 7108;
    pub(crate) const CONTENT_TYPE: u32 = 7126;
    pub(crate) const DELIVERED: u32 = 7500;
    pub(crate) const SUBMITTED: u32 = 7501;
    pub(crate) const READ: u32 = 7502;
    pub(crate) const CLICKED: u32 = 7528;
    pub(crate) const PARAMETER_COUNT: u32 = 7804;
    pub(crate) const BUTTON_URL: u32 = 7813;
}

//! A receipt of Webex Connect. Its documented samples contradict each other, so the decoder is tolerant: fields may be in `deliveryInfo`
//! or beside it, numbers may be texts, and unknown fields are ignored. Only what [`ReceivedReceipt`] has is read: no number, address or
//! text of the message.

use jiff::Timestamp;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::receipt_codes::{self, ReceiptMeaning};
use crate::contract::{
    ids,
    people::Channel,
    private::has_phone_number,
    receipt::{FailureCause, MessageState},
};

/// Maximum size of a receipt, in bytes.
pub(crate) const RECEIPT_BYTES_MAX: usize = 64 * 1024;
/// Largest code and number of parts. A larger number may be a person's.
const CODE_MAX: u32 = 99_999;
const PARTS_MAX: u32 = 999;
/// Longest name of a carrier, in characters.
const CARRIER_CHARS_MAX: usize = 100;

/// The meaning of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReceiptBody {
    /// The receipt of a message of this program.
    Ours(Box<ReceivedReceipt>),
    /// The receipt of another program's message.
    Foreign,
    /// Not a receipt, or not a readable one.
    Malformed,
}

/// A receipt of a message of this program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReceivedReceipt {
    /// The id of the message: the `message_id` of its guest link.
    pub(crate) message: Uuid,
    /// The id of the receipt, the same for each repeat.
    pub(crate) id: Uuid,
    pub(crate) channel: Channel,
    pub(crate) state: MessageState,
    /// Cause of a failure, and if it may pass.
    pub(crate) failure: Option<(FailureCause, bool)>,
    pub(crate) code: Option<u32>,
    /// True if the code is missing or not known to this program.
    pub(crate) code_is_unknown: bool,
    pub(crate) at: Option<Timestamp>,
    pub(crate) parts: Option<u32>,
    pub(crate) carrier: Option<String>,
}

/// Codes of messages that `WhatsApp` does not deliver to this person, and that SMS may: only a template may be sent now, the phone has
/// changed, the number is not registered, or `WhatsApp` cannot deliver.
pub(crate) const NOT_ON_WHATSAPP: [u32; 6] = [7710, 7726, 7802, 7862, 7865, 7871];

impl ReceivedReceipt {
    /// True if `WhatsApp` does not reach the guest, and SMS may.
    pub(crate) fn is_not_on_whatsapp(&self) -> bool {
        self.channel == Channel::Whatsapp && self.code.is_some_and(|code| NOT_ON_WHATSAPP.contains(&code))
    }
}

/// The objects that may have the fields, innermost first.
struct ReceiptFields<'a>(Vec<&'a Map<String, Value>>);

impl ReceiptFields<'_> {
    /// The field `name` as text, if it is a text or a number. The case of names differs between samples.
    fn text(&self, name: &str) -> Option<String> {
        let fields = self.0.iter().flat_map(|object| object.iter());
        let values = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        values
            .filter_map(|value| match value {
                Value::String(text) => Some(text.trim().to_owned()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .find(|text| !text.is_empty())
    }
}

/// Reads the body of a receipt.
pub(crate) fn read(body: &[u8]) -> ReceiptBody {
    let Ok(Value::Object(outer)) = serde_json::from_slice::<Value>(body) else {
        return ReceiptBody::Malformed;
    };
    let notification = outer.get("deliveryInfoNotification").and_then(Value::as_object).unwrap_or(&outer);
    let info = notification.get("deliveryInfo").and_then(Value::as_object);
    let fields = ReceiptFields(info.into_iter().chain([notification]).collect());
    // A message without a correlation id was not sent by this program.
    let correlation = fields.text("correlationid").unwrap_or_default();
    match our_id(&correlation) {
        None if looks_like_a_receipt(&fields) => ReceiptBody::Foreign,
        None => ReceiptBody::Malformed,
        Some(message) => ours(message, &fields)
            .map_or(ReceiptBody::Malformed, |receipt| ReceiptBody::Ours(Box::new(receipt))),
    }
}

fn looks_like_a_receipt(fields: &ReceiptFields<'_>) -> bool {
    ["code", "deliveryStatus", "correlationid"].iter().any(|name| fields.text(name).is_some())
}

/// The id of a message of this program: a `UUIDv5`, because [`ids::hash`] makes no others.
fn our_id(correlation: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(correlation).ok().filter(|_| correlation.len() == 36)?;
    (id.get_version_num() == 5).then_some(id)
}

fn ours(message: Uuid, fields: &ReceiptFields<'_>) -> Option<ReceivedReceipt> {
    let channel = match fields.text("deliveryChannel")?.to_ascii_lowercase().as_str() {
        "sms" => Channel::Sms,
        "whatsapp" => Channel::Whatsapp,
        _ => return None,
    };
    let (code_text, status) = (fields.text("code"), fields.text("deliveryStatus"));
    if code_text.is_none() && status.is_none() {
        return None;
    }
    let code = code_text.as_deref().and_then(|code| code.parse().ok()).filter(|code| *code <= CODE_MAX);
    let known = code.and_then(receipt_codes::meaning);
    let of_status = || status.as_deref().and_then(receipt_codes::meaning_of_status);
    let nothing = ReceiptMeaning { state: MessageState::Unknown, failure: None };
    let ReceiptMeaning { state, failure } = known.or_else(of_status).unwrap_or(nothing);
    let time = fields.text("timeStamp").unwrap_or_default();
    let transaction = fields.text("transid").unwrap_or_default();
    // Without a transaction or a time, the other parts still tell receipts of a message apart.
    let code_part = code_text.or(status).unwrap_or_default();
    let id = ids::hash(format!("receipt/{message}/{transaction}/{code_part}/{time}").as_bytes());
    Some(ReceivedReceipt {
        message,
        id,
        channel,
        state,
        failure,
        code,
        code_is_unknown: known.is_none(),
        at: time.parse().ok(),
        parts: fields
            .text("messageCount")
            .and_then(|parts| parts.parse().ok())
            .filter(|parts| (1..=PARTS_MAX).contains(parts)),
        carrier: fields.text("carrier").filter(|carrier| is_carrier(carrier)),
    })
}

/// True if `text` can be the name of a carrier, and not a number, an address or a link.
fn is_carrier(text: &str) -> bool {
    let is_usual = |c: char| c.is_alphabetic() || c.is_ascii_digit() || " .&'+-()".contains(c);
    let fits = text.chars().count() <= CARRIER_CHARS_MAX && text.chars().all(is_usual);
    fits && !has_phone_number(text)
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};
    use serde_json::json;

    use super::*;

    const MESSAGE: &str = "9a58bed1-6e22-51ff-b40f-df2011762f7f";

    fn documented() -> Value {
        json!({"deliveryInfoNotification": {
            "deliveryInfo": {
                "timeStamp": "2026-11-21T11:00:04.120+01:00", "Description": "Delivered", "code": "7500",
                "deliveryChannel": "SMS", "additionalInfo": "", "destination": "34600111222",
                "destinationType": "msisdn", "deliveryStatus": "Delivered", "messageCount": "1",
            },
            "carrier": "Sandbox Mobile", "subtid": "", "transid": "6f9e", "callbackData": "",
            "correlationid": MESSAGE,
        }})
    }

    fn sample(change: impl FnOnce(&mut Value)) -> ReceiptBody {
        let mut body = documented();
        change(&mut body);
        read(body.to_string().as_bytes())
    }

    fn ours(body: ReceiptBody) -> ReceivedReceipt {
        match body {
            ReceiptBody::Ours(receipt) => *receipt,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn documented_sample_is_read() {
        let receipt = ours(sample(|_| ()));
        assert_eq!(receipt.message.to_string(), MESSAGE);
        assert_eq!((receipt.channel, receipt.state), (Channel::Sms, MessageState::Delivered));
        assert_eq!((receipt.code, receipt.parts, receipt.code_is_unknown), (Some(7500), Some(1), false));
        assert_eq!(receipt.at.unwrap().to_string(), "2026-11-21T10:00:04.12Z");
        assert_eq!(receipt.carrier.as_deref(), Some("Sandbox Mobile"));
    }

    #[test]
    fn forms_of_a_receipt_have_the_same_meaning_and_the_same_id() {
        let documented = ours(sample(|_| ()));
        let numeric = ours(sample(|body| {
            let info = &mut body["deliveryInfoNotification"]["deliveryInfo"];
            (info["code"], info["messageCount"], info["deliveryChannel"]) =
                (7500.into(), 1.into(), "sms".into());
        }));
        assert_eq!(numeric, documented);
        let outside = ours(sample(|body| {
            let outer = body["deliveryInfoNotification"].as_object_mut().unwrap();
            let Some(Value::Object(inner)) = outer.remove("deliveryInfo") else { panic!() };
            outer.extend(inner);
            outer.insert("newField".to_owned(), json!([[{}]]));
        }));
        assert_eq!(outside, documented);
    }

    #[test]
    fn unknown_code_counts_and_the_status_decides() {
        let with = |code: Value, status: &str| {
            ours(sample(|body| {
                let info = &mut body["deliveryInfoNotification"]["deliveryInfo"];
                (info["code"], info["deliveryStatus"]) = (code, status.into());
            }))
        };
        for (code, status, state) in [
            (json!("7999"), "Delivered", MessageState::Delivered),
            (json!("7999"), "Undelivered", MessageState::Failed),
            (json!("7999"), "", MessageState::Unknown),
            (json!("no number"), "Read", MessageState::Read),
            (json!("600111222"), "Read", MessageState::Read),
            (Value::Null, "Submitted", MessageState::Submitted),
        ] {
            let receipt = with(code, status);
            assert_eq!((receipt.state, receipt.code_is_unknown), (state, true), "{status}");
            assert!(receipt.code.is_none_or(|code| code == 7999), "{status}");
        }
    }

    #[test]
    fn body_of_another_program_is_foreign_and_another_body_is_malformed() {
        let correlation = |id: Value| sample(|body| body["deliveryInfoNotification"]["correlationid"] = id);
        for other in
            [json!(""), json!(7), json!("order-17"), json!(Uuid::new_v4()), json!(MESSAGE.replace('-', ""))]
        {
            assert_eq!(correlation(other.clone()), ReceiptBody::Foreign, "{other}");
        }
        for body in ["", "[]", "{}", "\"x\"", "not JSON", r#"{"deliveryInfoNotification":[]}"#] {
            assert_eq!(read(body.as_bytes()), ReceiptBody::Malformed, "{body}");
        }
        let channel = sample(|body| {
            body["deliveryInfoNotification"]["deliveryInfo"]["deliveryChannel"] = "Voice".into();
        });
        assert_eq!(channel, ReceiptBody::Malformed);
        assert_eq!(read("[".repeat(100_000).as_bytes()), ReceiptBody::Malformed);
    }

    #[test]
    fn receipts_differ_by_code_time_and_transaction() {
        let id = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            ours(sample(move |body| {
                let outer = &mut body["deliveryInfoNotification"];
                let place = if name == "transid" { outer } else { &mut outer["deliveryInfo"] };
                place[name] = value.into();
            }))
            .id
        };
        let same = id("transid", "6f9e");
        assert_eq!(same, ours(sample(|_| ())).id);
        for other in [id("transid", "6f9f"), id("code", "7501"), id("timeStamp", "2026-11-21T10:00:05Z")] {
            assert_ne!(other, same);
        }
    }

    #[test]
    fn private_text_in_the_place_of_a_carrier_is_left_out() {
        let link = "https://instant.webex.com/visit/ckmNR7I";
        for wrong in ["+34600111222", "34 600 111 222", "ana@example.com", link, "a\nb", &"x".repeat(101)] {
            let receipt = ours(sample(|body| body["deliveryInfoNotification"]["carrier"] = wrong.into()));
            assert_eq!(receipt.carrier, None, "{wrong}");
        }
    }

    proptest! {
        /// A body is from whoever knows the secret: it may be anything, and no number may get out.
        #[test]
        fn any_body_is_read_and_no_number_gets_out(
            at in 0_usize..400, inserted in "[\\x00-\\x7f]{0,8}", removed in 0_usize..20, value in ".{0,40}",
        ) {
            let mut body = documented().to_string();
            let at = (0..=at.min(body.len())).rev().find(|at| body.is_char_boundary(*at)).unwrap_or(0);
            let end = (at + removed).min(body.len());
            body.replace_range(at..end, &inserted);
            if let ReceiptBody::Ours(receipt) = read(body.as_bytes()) {
                let carrier = receipt.carrier.unwrap_or_default();
                prop_assert!(!has_phone_number(&carrier));
            }
            let mut other = documented();
            for name in ["code", "timeStamp", "deliveryStatus", "messageCount", "deliveryChannel"] {
                other["deliveryInfoNotification"]["deliveryInfo"][name] = value.clone().into();
            }
            _ = read(other.to_string().as_bytes());
            _ = read(value.as_bytes());
        }
    }
}

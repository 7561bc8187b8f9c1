//! Body of a receipt, in the forms of Webex Connect's samples, which contradict each other.

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};
use serde_json::{Map, Value, json};

use super::ReceiptState;
use crate::{connect::records::RecordedSend, faults::Endpoint};

/// Form of receipts. The default is the form of the documented sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiptForm {
    /// Place of the fields.
    pub placement: ReceiptPlacement,
    /// True: `sms` and `whatsapp`. False: `SMS` and WhatsApp.
    pub lower_case_channel: bool,
    /// True: `code` is a number. False: a string.
    pub numeric_code: bool,
    /// Offset of `timeStamp` from UTC in hours, -25 to 25; 0 is written `Z`.
    pub offset_hours: i8,
    /// True: `waid` is empty; WhatsApp only.
    pub empty_waid: bool,
}

/// Place of a receipt's fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiptPlacement {
    /// The ids beside `deliveryInfo`, the state within it.
    #[default]
    Documented,
    /// All fields within `deliveryInfo`.
    Inside,
    /// All fields beside `deliveryInfo`, which is missing.
    Outside,
}

impl ReceiptForm {
    /// A form for the receipt with this number; receipts in a row have different forms.
    pub(super) fn varied(number: u64) -> Self {
        let placements = [ReceiptPlacement::Documented, ReceiptPlacement::Inside, ReceiptPlacement::Outside];
        Self {
            placement: placements[usize::try_from(number % 3).unwrap_or_default()],
            lower_case_channel: number % 2 == 1,
            numeric_code: number / 2 % 2 == 1,
            offset_hours: [0, 1, -8, 2][usize::try_from(number % 4).unwrap_or_default()],
            empty_waid: number / 3 % 2 == 1,
        }
    }
}

/// The body of a receipt that was made at `at`.
pub(super) fn body(send: &RecordedSend, state: ReceiptState, form: ReceiptForm, at: Timestamp) -> Value {
    let (mut inner, mut outer) = (state_fields(send, state, form, at), id_fields(send));
    match form.placement {
        ReceiptPlacement::Documented => {
            outer.insert("deliveryInfo".to_owned(), inner.into());
        }
        ReceiptPlacement::Inside => {
            inner.append(&mut outer);
            outer.insert("deliveryInfo".to_owned(), inner.into());
        }
        ReceiptPlacement::Outside => outer.append(&mut inner),
    }
    json!({"deliveryInfoNotification": outer})
}

fn state_fields(
    send: &RecordedSend,
    state: ReceiptState,
    form: ReceiptForm,
    at: Timestamp,
) -> Map<String, Value> {
    let whatsapp = send.endpoint == Endpoint::WhatsApp;
    let channel = if whatsapp { "WhatsApp" } else { "SMS" };
    let channel = if form.lower_case_channel { channel.to_lowercase() } else { channel.to_owned() };
    let number = send.address.trim_start_matches('+');
    let status = match state {
        ReceiptState::Submitted => "Submitted",
        ReceiptState::Delivered => "Delivered",
        ReceiptState::Read => "Read",
        ReceiptState::Clicked => "Clicked",
        ReceiptState::Failed(_) => "Failed",
    };
    let (description, additional) = match (state, &send.url) {
        (ReceiptState::Clicked, Some(url)) => (format!("{url}|192.0.2.1"), "Mozilla/5.0 (sandbox)"),
        _ => (status.to_owned(), ""),
    };
    let code: Value = if form.numeric_code { state.code().into() } else { state.code().to_string().into() };
    let mut fields = json!({
        "timeStamp": timestamp(at, form.offset_hours),
        "Description": description,
        "code": code,
        "deliveryChannel": channel,
        "additionalInfo": additional,
        "destination": number,
        "destinationType": if whatsapp { "waid" } else { "msisdn" },
        "deliveryStatus": status,
    });
    if whatsapp {
        fields["waid"] = if form.empty_waid { "" } else { number }.into();
        fields["bsuid"] = "".into();
        // Both spellings occur.
        fields[if form.numeric_code { "waidNormalized" } else { "waidNormalised" }] = number.into();
        fields["identityKeyHash"] = "".into();
    } else {
        fields["messageCount"] = "1".into();
    }
    object(fields)
}

fn id_fields(send: &RecordedSend) -> Map<String, Value> {
    let whatsapp = send.endpoint == Endpoint::WhatsApp;
    let mut fields = json!({
        "subtid": "",
        "transid": if whatsapp { format!("{}_0", send.id) } else { send.id.clone() },
        "callbackData": send.callback_data.as_deref().unwrap_or_default(),
        "correlationid": send.correlation_id,
    });
    if !whatsapp {
        fields["carrier"] = "Sandbox Mobile".into();
        fields["carrierSubmitTimeStamp"] = format!("{:.3}", send.at).into();
    }
    object(fields)
}

fn object(fields: Value) -> Map<String, Value> {
    if let Value::Object(fields) = fields { fields } else { Map::new() }
}

fn timestamp(at: Timestamp, offset_hours: i8) -> String {
    match Offset::from_hours(offset_hours) {
        Ok(offset) if offset_hours != 0 => {
            at.to_zoned(TimeZone::fixed(offset)).strftime("%Y-%m-%dT%H:%M:%S.%3f%:z").to_string()
        }
        _ => format!("{at:.3}"),
    }
}

//! Custom events, which wake a waiting flow (`POST /resources/v1/events/externalevent/`, "Custom event v1" in Webex Connect's developer
//! reference).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contract::{link::GuestLink, private::Private, time::WireTime};

/// Path of the API.
pub(crate) const PATH: &str = "/resources/v1/events/externalevent/";

/// Names of the parameters that each event may have. Attributes with these names are not passed on.
pub(crate) const PARAMETERS: [&str; 7] =
    ["url", "baseUrl", "short", "name", "channel", "sessionId", "correlationId"];

/// The request to wake one flow.
#[derive(Debug, Serialize)]
pub(crate) struct EventRequest<'a> {
    events: [CustomEvent<'a>; 1],
    expiry: WireTime,
}

#[derive(Debug, Serialize)]
struct CustomEvent<'a> {
    evtid: &'a str,
    correlationid: &'a str,
    parameters: BTreeMap<&'a str, Private<&'a str>>,
}

impl<'a> EventRequest<'a> {
    /// The event `event_id` with `link` and those of its attributes that are among `attributes`. Receipts and logs name it by
    /// `correlation_id`. Values that the link does not have are left out.
    #[must_use]
    pub(crate) fn new(
        event_id: &'a str,
        link: &'a GuestLink,
        attributes: &'a [String],
        correlation_id: &'a str,
    ) -> Self {
        let address = &link.address.0;
        let text = |value: &'a Option<Private<String>>| value.as_ref().map(|value| value.reveal().as_str());
        let values = [
            Some(address.url.reveal().as_str()),
            address.base_url.as_deref(),
            text(&address.short),
            text(&link.name),
            Some(link.channel.as_str()),
            Some(link.session_id.reveal().as_str()),
            text(&link.correlation_id),
        ];
        let given = link.attributes.iter().flatten();
        let passed =
            given.filter(|(name, _)| attributes.contains(*name) && !PARAMETERS.contains(&name.as_str()));
        let attributes = passed.map(|(name, value)| (name.as_str(), value.reveal().as_str()));
        let own = PARAMETERS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
        let parameters = attributes.chain(own).map(|(name, value)| (name, Private::new(value))).collect();
        let event = CustomEvent { evtid: event_id, correlationid: correlation_id, parameters };
        Self { events: [event], expiry: link.expires_at }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parameters(more: &Value, attributes: &[&str]) -> Value {
        let mut link = json!({
            "eventId": "event-1", "sessionId": "visit-1", "channel": "sms", "to": "+34600111222",
            "url": "https://instant.webex.com/visit/ckmNR7I", "expiresAt": "2026-11-21T11:00:00Z",
        });
        link.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let link: GuestLink = serde_json::from_value(link).unwrap();
        let attributes: Vec<_> = attributes.iter().map(|name| (*name).to_owned()).collect();
        let request = EventRequest::new("EVT1", &link, &attributes, "0b5a");
        assert!(!format!("{request:?}").contains("visit"), "{request:?}");
        let mut sent = serde_json::to_value(request).unwrap();
        assert_eq!(sent["expiry"], "2026-11-21T11:00:00Z");
        let parameters = sent["events"][0]["parameters"].take();
        let event = json!({"evtid": "EVT1", "correlationid": "0b5a", "parameters": null});
        assert_eq!(sent["events"], json!([event]));
        parameters
    }

    #[test]
    fn event_has_the_link_and_the_configured_attributes_only() {
        let least = json!({
            "url": "https://instant.webex.com/visit/ckmNR7I", "channel": "sms", "sessionId": "visit-1",
        });
        assert_eq!(parameters(&json!({}), &["resumeKey"]), least);
        let more = json!({
            "baseUrl": "https://instant.webex.com/visit/", "short": "ckmNR7I", "name": "Ana", "correlationId": "flow-7",
            "attributes": {"resumeKey": "chat-99", "evtid": "EVT2", "url": "https://evil.example/"},
        });
        let mut all = least;
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all["attributes"].take();
        all.as_object_mut().unwrap().remove("attributes");
        assert_eq!(parameters(&more, &[]), all);
        all["resumeKey"] = json!("chat-99");
        assert_eq!(parameters(&more, &["resumeKey", "url", "absent"]), all);
    }
}

//! The message to an expert: an Adaptive Card with a button, and Markdown for clients that do not show cards.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use crate::contract::{
    link::HostLink,
    people::{Email, ExpertDestination},
    private::Private,
};

/// Maximum size of `markdown`, in bytes (Webex's reference of `POST /v1/messages`).
pub const MARKDOWN_BYTES_MAX: usize = 7439;
/// Maximum size of the shown guest names, in bytes; the other names are only counted.
const NAMES_BYTES_MAX: usize = 1000;
/// Maximum number of characters of one name.
const NAME_CHARS_MAX: usize = 100;

/// The body of `POST /v1/messages`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    to_person_email: Option<&'a Email>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_person_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a str>,
    markdown: Private<String>,
    attachments: [Private<Value>; 1],
}

impl<'a> MessageRequest<'a> {
    /// The message with `link` for the expert at `destination`.
    #[must_use]
    pub fn new(destination: &ExpertDestination<'a>, link: &HostLink) -> Self {
        let lines = Lines::of(link);
        let (to_person_email, to_person_id, room_id) = match *destination {
            ExpertDestination::Email(email) => (Some(email), None, None),
            ExpertDestination::Person(id) => (None, Some(id), None),
            ExpertDestination::Room(id) => (None, None, Some(id)),
        };
        Self {
            to_person_email,
            to_person_id,
            room_id,
            markdown: lines.markdown(link.address.reveal()).into(),
            attachments: [lines.card(link.address.reveal()).into()],
        }
    }
}

/// The texts of the message, escaped for Markdown. Card texts are Markdown too.
struct Lines {
    greeting: String,
    facts: Vec<(&'static str, String)>,
}

impl Lines {
    fn of(link: &HostLink) -> Self {
        let greeting = link.expert.name.as_ref().map_or_else(
            || "A video session is waiting for you.".to_owned(),
            |name| format!("{}, a video session is waiting for you.", plain(name.reveal())),
        );
        let mut facts = vec![("Session", plain(link.session_id.reveal()))];
        let names = names(&link.guests);
        if !names.is_empty() {
            facts.push((if link.guests.len() == 1 { "Guest" } else { "Guests" }, names));
        }
        let time =
            |at: crate::contract::time::WireTime| at.timestamp().strftime("%-d %B %Y, %H:%M UTC").to_string();
        if let Some(not_before) = link.not_before {
            facts.push(("Opens", time(not_before)));
        }
        facts.push(("Open until", time(link.expires_at)));
        Self { greeting, facts }
    }

    fn markdown(&self, url: &str) -> String {
        let mut text = format!("**{}**\n\n", self.greeting);
        for (name, value) in &self.facts {
            _ = writeln!(text, "- {name}: {value}");
        }
        let link = format!("\n[Join session]({url})");
        // A long link with a large salt and many devices may be too long for a message. The button also has the link.
        let link = if text.len() + link.len() <= MARKDOWN_BYTES_MAX {
            link
        } else {
            "\nThe card has the link.".to_owned()
        };
        text + &link
    }

    fn card(&self, url: &str) -> Value {
        let facts: Vec<_> =
            self.facts.iter().map(|(title, value)| json!({"title": title, "value": value})).collect();
        json!({
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.3",
                "body": [
                    {"type": "TextBlock", "text": self.greeting, "weight": "Bolder", "size": "Medium", "wrap": true},
                    {"type": "FactSet", "facts": facts},
                ],
                "actions": [{"type": "Action.OpenUrl", "title": "Join session", "url": url}],
            },
        })
    }
}

/// As many names as fit, and the number of the other names.
fn names(guests: &[Private<String>]) -> String {
    let mut shown = String::new();
    for (position, name) in guests.iter().enumerate() {
        let name = plain(name.reveal());
        if shown.len() + name.len() > NAMES_BYTES_MAX {
            _ = write!(shown, " and {} more", guests.len() - position);
            break;
        }
        shown.push_str(if position == 0 { "" } else { ", " });
        shown.push_str(&name);
    }
    shown
}

/// `text` on one line, shortened, with Markdown and HTML escaped: a guest with the name `[Join](https://evil.example)`
/// must not be able to show a link to the expert.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut characters = text.trim().chars();
    for c in characters.by_ref().take(NAME_CHARS_MAX) {
        match c {
            c if c.is_control() || c.is_whitespace() => safe.push(' '),
            // Direction marks could make one link look like another.
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '(' | ')' | '#' | '!' | '|' | '~' | '{' | '}' => {
                safe.push('\\');
                safe.push(c);
            }
            // Clients turn plain addresses into links; an invisible space prevents this.
            '@' | ':' => {
                safe.push(c);
                safe.push('\u{200b}');
            }
            '.' => safe.push_str(".\u{200b}"),
            c => safe.push(c),
        }
    }
    if characters.next().is_some() {
        safe.push('…');
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn link(guests: &[&str], url: &str) -> HostLink {
        serde_json::from_value(json!({
            "eventId": "e", "sessionId": "visit-48151623", "expert": {"email": "expert@example.com", "name": "Dr Lee"},
            "guests": guests, "url": url, "expiresAt": "2026-11-21T11:00:00Z",
        }))
        .unwrap()
    }

    fn body(link: &HostLink) -> Value {
        serde_json::to_value(MessageRequest::new(&link.expert.address().unwrap(), link)).unwrap()
    }

    #[test]
    fn message_shows_the_guests_and_one_button() {
        let body = body(&link(&["Ana", "Luis"], "https://instant.webex.com/visit/oCVp2LD"));
        assert_eq!(body["toPersonEmail"], "expert@example.com");
        assert_eq!(body.get("roomId"), None);
        let markdown = body["markdown"].as_str().unwrap();
        assert!(
            markdown.contains("Dr Lee, a video session is waiting") && markdown.contains("Guests: Ana, Luis"),
            "{markdown}"
        );
        assert!(markdown.ends_with("[Join session](https://instant.webex.com/visit/oCVp2LD)"));
        let card = &body["attachments"][0]["content"];
        assert_eq!(
            card["actions"],
            json!([{"type": "Action.OpenUrl", "title": "Join session", "url": "https://instant.webex.com/visit/oCVp2LD"}])
        );
        assert_eq!(card["version"], "1.3");
    }

    #[test]
    fn name_cannot_contain_a_link() {
        let body = body(&link(
            &["[Join](https://evil.example)<img src=x>\n\n# www.evil.example"],
            "https://instant.webex.com/visit/a",
        ));
        let markdown = body["markdown"].as_str().unwrap();
        for trick in ["[Join](", "<img", "evil.example", "https://evil", "\n#"] {
            assert!(!markdown.contains(trick), "{trick} in {markdown}");
        }
    }

    #[test]
    fn link_that_does_not_fit_is_on_the_button_only() {
        let url = format!("https://instant.webex.com/hc/v1/login?int=jose&v=1&data={}", "x".repeat(8000));
        let body = body(&link(&["Ana"], &url));
        assert!(body["markdown"].as_str().unwrap().ends_with("The card has the link."));
        assert_eq!(body["attachments"][0]["content"]["actions"][0]["url"], url);
    }

    proptest! {
        #[test]
        fn markdown_never_exceeds_the_limit(names in prop::collection::vec("\\PC{0,300}", 0..200), url in "https://[a-z]{1,9000}") {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let body = body(&link(&names, &url));
            prop_assert!(body["markdown"].as_str().unwrap().len() <= MARKDOWN_BYTES_MAX);
        }
    }
}

//! Approved WhatsApp templates.

use std::{collections::BTreeSet, str::FromStr};

use serde_json::{Map, Value};
use url::Url;

use super::{
    limits::{SPACES_MAX, TEMPLATE_CHARS_MAX, code},
    refused::ConnectRefusal,
};

/// A template that Webex Connect knows. Its parameters are the names in `body` and the button's parameter; a request must
/// have each of them, and no other.
///
/// Text form: `ID:NAME,NAME,button=NAME`, with a body of one line for each name. The button is optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatsAppTemplate {
    /// Id, one for each language.
    pub id: String,
    /// Text with `{{name}}` for each parameter.
    pub body: String,
    /// The Visit-Website button.
    pub button: Option<TemplateButton>,
}

/// A Visit-Website button; a request has its parameter as `{"type":"url","payload":EXTENSION}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateButton {
    /// Name of the parameter.
    pub parameter: String,
    /// Text on the button.
    pub label: String,
    /// URL before the extension. Default: the short links of [`ConnectSandboxOptions::phones`], otherwise
    /// `https://instant.webex.com/visit/`.
    ///
    /// [`ConnectSandboxOptions::phones`]: super::ConnectSandboxOptions::phones
    pub base_url: Option<Url>,
}

/// An invalid text form of [`WhatsAppTemplate`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a template is ID:NAME,NAME,button=NAME, as in link-fr:name,button=join")]
pub struct TemplateParseError;

/// A filled template.
pub(super) struct FilledTemplate {
    pub(super) body: String,
    /// Label and URL.
    pub(super) button: Option<(String, String)>,
}

impl WhatsAppTemplate {
    /// `link-en` and `link-es`: the parameter `name`, and the button `join`.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let template = |id: &str, body: &str, label: &str| Self {
            id: id.to_owned(),
            body: body.to_owned(),
            button: Some(TemplateButton {
                parameter: "join".to_owned(),
                label: label.to_owned(),
                base_url: None,
            }),
        };
        vec![
            template("link-en", "Hello {{name}}, your video call is ready.", "Join"),
            template("link-es", "Hola {{name}}, su videollamada está lista.", "Unirse"),
        ]
    }

    /// Names of the parameters in the body.
    fn names(&self) -> BTreeSet<&str> {
        let parts = self.body.split("{{").skip(1);
        parts.filter_map(|part| part.split_once("}}")).map(|(name, _)| name.trim()).collect()
    }

    /// Fills the template. `links` is the default of [`TemplateButton::base_url`].
    pub(super) fn fill(
        &self,
        parameters: &Map<String, Value>,
        links: &Url,
    ) -> Result<FilledTemplate, ConnectRefusal> {
        let mut names = self.names();
        names.extend(self.button.as_ref().map(|button| button.parameter.as_str()));
        if !names.iter().copied().eq(parameters.keys().map(String::as_str).collect::<BTreeSet<_>>()) {
            let names: Vec<_> = names.into_iter().collect();
            let text = format!("message.parameters: the template has exactly {}", names.join(", "));
            return Err(ConnectRefusal::new(code::PARAMETER_COUNT, text));
        }
        let mut body = self.body.clone();
        for name in self.names() {
            body = body.replace(&format!("{{{{{name}}}}}"), value(name, &parameters[name])?);
        }
        if body.chars().count() > TEMPLATE_CHARS_MAX {
            return Err(ConnectRefusal::new(
                code::LENGTH,
                "the filled template has more than 1024 characters",
            ));
        }
        let button = self.button.as_ref().map(|button| button.fill(&parameters[&button.parameter], links));
        Ok(FilledTemplate { body, button: button.transpose()? })
    }
}

impl TemplateButton {
    fn fill(&self, parameter: &Value, links: &Url) -> Result<(String, String), ConnectRefusal> {
        let field = format!("message.parameters.{}", self.parameter);
        if parameter["type"] != "url" {
            return Err(ConnectRefusal::invalid(&field, "an object with the type url"));
        }
        let payload = parameter["payload"].as_str().unwrap_or_default();
        if payload.is_empty() || payload.contains("://") || payload.contains(char::is_whitespace) {
            let text = format!("{field}.payload: expected the extension of the button's URL");
            return Err(ConnectRefusal::new(code::BUTTON_URL, text));
        }
        Ok((self.label.clone(), format!("{}{payload}", self.base_url.as_ref().unwrap_or(links))))
    }
}

/// The text of a parameter in the body.
fn value<'a>(name: &str, value: &'a Value) -> Result<&'a str, ConnectRefusal> {
    let field = format!("message.parameters.{name}");
    let text = value.as_str().filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| ConnectRefusal::invalid(&field, "a text"))?;
    if text.contains(['\n', '\r', '\t']) || text.contains(&" ".repeat(SPACES_MAX + 1)) {
        return Err(ConnectRefusal::invalid(&field, "no newline, no tab and at most 4 spaces in a row"));
    }
    Ok(text)
}

impl FromStr for WhatsAppTemplate {
    type Err = TemplateParseError;

    fn from_str(text: &str) -> Result<Self, TemplateParseError> {
        let (id, names) = text.split_once(':').ok_or(TemplateParseError)?;
        let (mut body, mut button) = (Vec::new(), None);
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.split_once('=') {
                None => body.push(format!("{name}: {{{{{name}}}}}")),
                Some(("button", parameter)) if button.is_none() && !parameter.is_empty() => {
                    button = Some(TemplateButton {
                        parameter: parameter.to_owned(),
                        label: "Join".to_owned(),
                        base_url: None,
                    });
                }
                Some(_) => return Err(TemplateParseError),
            }
        }
        if id.is_empty() || (body.is_empty() && button.is_none()) {
            return Err(TemplateParseError);
        }
        Ok(Self { id: id.to_owned(), body: body.join("\n"), button })
    }
}

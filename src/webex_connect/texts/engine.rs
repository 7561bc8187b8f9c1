//! Templates of texts (the language Jinja), and their variables.

use std::{collections::HashSet, fmt, sync::Arc};

use jiff::{Timestamp, Zoned, fmt::strtime, tz::TimeZone};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, value::Object, value::Value};

use super::LinkValues;

/// Limit of one rendering: this many instructions, or 64 bytes each (640 kB).
const FUEL: u64 = 10_000;

/// The variables of a text.
pub(super) const VARIABLES: [&str; 5] = ["name", "url", "starts", "ends", "zone"];

/// Stands before a mark in a rendered text. A text has no such character, so a text with it is never sent.
const MARK: char = '\0';

/// A value that no text can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unshowable {
    /// The guest has no name, or the name is left out.
    NoName,
    /// The session has no start.
    NoStart,
    /// A time without its filter.
    BareTime,
}

impl Unshowable {
    const ALL: [Self; 3] = [Self::NoName, Self::NoStart, Self::BareTime];

    const fn mark(self) -> &'static str {
        match self {
            Self::NoName => "name",
            Self::NoStart => "starts",
            Self::BareTime => "time",
        }
    }

    /// The first value in `rendered` that it should not show.
    pub(super) fn found_in(rendered: &str) -> Option<Self> {
        let (_, marked) = rendered.split_once(MARK)?;
        Self::ALL.into_iter().find(|value| marked.starts_with(value.mark()))
    }
}

/// An absent value: false in a condition.
#[derive(Debug)]
struct Absent(Unshowable);

impl Object for Absent {
    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}", self.0.mark())
    }
}

/// A time, which only the filter `time` can show.
#[derive(Debug)]
struct Moment(Zoned);

impl Object for Moment {
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{}", Unshowable::BareTime.mark())
    }
}

/// The filter `time`: formats a time by strftime, with English names of days and months.
fn time(value: &Value, format: &str) -> Result<Value, Error> {
    if value.downcast_object_ref::<Absent>().is_some() {
        return Ok(value.clone());
    }
    let invalid = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    let Some(Moment(at)) = value.downcast_object_ref() else {
        return Err(invalid("the filter time is for starts and ends".to_owned()));
    };
    let formatted = strtime::format(format, at);
    formatted
        .map(Value::from)
        .map_err(|error| invalid(format!("cannot format a time as {format:?}: {error}")))
}

/// Compiled templates.
pub(super) struct Engine {
    environment: Environment<'static>,
    zone: TimeZone,
}

impl Engine {
    /// An engine that shows times in `zone`, unless the values name another one.
    pub(super) fn new(zone: TimeZone) -> Self {
        let mut environment = Environment::empty();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("time", time);
        Self { environment, zone }
    }

    /// Compiles `source`.
    ///
    /// # Errors
    /// A syntax error.
    pub(super) fn add(&mut self, key: &str, source: &str) -> Result<(), Error> {
        self.environment.add_template_owned(key.to_owned(), source.to_owned())
    }

    /// The variables of a template.
    pub(super) fn variables(&self, key: &str) -> HashSet<String> {
        let template = self.environment.get_template(key);
        template.map(|template| template.undeclared_variables(false)).unwrap_or_default()
    }

    /// Renders a template. The name is taken as it is.
    ///
    /// # Errors
    /// The template uses something that does not exist, or takes too long. The error's detail may contain a value.
    pub(super) fn render(&self, key: &str, values: &LinkValues<'_>) -> Result<String, Error> {
        let absent = |kind| Value::from_object(Absent(kind));
        let zone = values.zone.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(|| self.zone.clone());
        let moment = |at: Timestamp| Value::from_object(Moment(at.to_zoned(zone.clone())));
        let variables = Value::from_pairs([
            ("name", values.name.map_or_else(|| absent(Unshowable::NoName), Value::from)),
            ("url", Value::from(values.url)),
            ("starts", values.starts.map_or_else(|| absent(Unshowable::NoStart), moment)),
            ("ends", moment(values.ends)),
            ("zone", Value::from(zone_name(&zone, values.ends))),
        ]);
        self.environment.get_template(key)?.render(variables)
    }
}

/// The name of `zone` with spaces, such as `America/New York`. A zone without a name has an abbreviation, such as `+01`.
fn zone_name(zone: &TimeZone, at: Timestamp) -> String {
    match zone.iana_name() {
        Some(name) => name.replace('_', " "),
        None => zone.to_offset_info(at).abbreviation().to_owned(),
    }
}

//! The test of a text at startup: it is rendered with the longest values.

use jiff::Timestamp;

use super::{
    LinkValues, SmsText, TextOptions, TextReport,
    encoding::outside_gsm7,
    engine::{Engine, VARIABLES},
    fault::{TextFault, TextProblem},
    folder::TextFile,
    name::SHOWN_CHARS_MAX,
    output::{limited, measured, sendable},
};

/// The time in the rendered text, in seconds of the Unix epoch: noon (UTC) of Wednesday 30 September 2026,
/// because this day and this month have the longest names.
const LONGEST_TIME: i64 = 1_790_769_600;

/// Checks one text with the longest values.
pub(super) struct TextTrial<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) options: &'a TextOptions<'a>,
    pub(super) key: &'a str,
    pub(super) file: &'a TextFile,
    pub(super) problems: &'a mut Vec<TextProblem>,
}

impl TextTrial<'_> {
    /// Returns the report of the text, or none and adds problems.
    pub(super) fn run(&mut self) -> Option<TextReport> {
        let before = self.problems.len();
        if let Err(error) = self.engine.add(self.key, &self.file.source) {
            self.problem(error.line(), TextFault::Syntax(described(&error)));
            return None;
        }
        let variables = self.engine.variables(self.key);
        let mut unknown: Vec<_> =
            variables.iter().filter(|name| !VARIABLES.contains(&name.as_str())).collect();
        unknown.sort_unstable();
        for name in unknown {
            self.problem(line_of(&self.file.source, name), TextFault::UnknownVariable(name.clone()));
        }
        if self.problems.len() > before {
            return None;
        }

        let url = longest_url(self.options.longest_url);
        let names = ["x", "\u{ed}"].map(|letter| letter.repeat(SHOWN_CHARS_MAX));
        let rendered = names.each_ref().map(|name| self.render(Some(name), &url, true));
        self.render(Some(&names[0]), &url, false);
        for has_start in [true, false] {
            let without_name = self.render(None, &url, has_start);
            let limit = without_name.map(|text| limited(text, self.options.parts_max));
            if let Some(Err(fault)) = limit {
                self.problem(None, fault.into());
            }
        }
        let [Some(text), Some(with_other_name)] = rendered else { return None };
        let outside = outside_gsm7(&text);
        let SmsText { encoding, parts, .. } = measured(text);
        Some(TextReport {
            locale: self.file.locale.clone(),
            file: self.file.file.clone(),
            encoding,
            parts,
            parts_with_other_name: measured(with_other_name).parts,
            outside_gsm7: outside,
            lacks_zone: lacks_zone(&self.file.source) && !variables.contains("zone"),
        })
    }

    fn render(&mut self, name: Option<&str>, url: &str, has_start: bool) -> Option<String> {
        let time = Timestamp::from_second(LONGEST_TIME).unwrap_or_default();
        let values = LinkValues { name, url, starts: has_start.then_some(time), ends: time, zone: None };
        let (line, fault) = match self.engine.render(self.key, &values) {
            Ok(rendered) => match sendable(&rendered, url) {
                Ok(text) => return Some(text),
                Err(fault) => (None, fault.into()),
            },
            Err(error) => (error.line(), TextFault::Engine(described(&error))),
        };
        self.problem(line, fault);
        None
    }

    /// Adds a problem, unless the file has it already: each text is rendered several times.
    fn problem(&mut self, line: Option<usize>, fault: TextFault) {
        let problem = TextProblem { file: self.file.file.clone(), line, fault };
        let text = problem.to_string();
        if self.problems.iter().all(|other| other.to_string() != text) {
            self.problems.push(problem);
        }
    }
}

/// A link of `chars` characters.
fn longest_url(chars: usize) -> String {
    "https://".chars().chain(std::iter::repeat('x')).take(chars).collect()
}

fn described(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()))
}

/// The first line of `source` with `name` inside a tag.
fn line_of(source: &str, name: &str) -> Option<usize> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let is_used = |(at, _): &(usize, &str)| {
        let (before, after) = (&source[..*at], &source[at + name.len()..]);
        let opened = before.rfind("{{").max(before.rfind("{%"));
        let closed = before.rfind("}}").max(before.rfind("%}"));
        opened > closed && !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    };
    let (at, _) = source.match_indices(name).find(is_used)?;
    Some(1 + source[..at].matches('\n').count())
}

/// True if the text formats a time without a zone in the format.
fn lacks_zone(source: &str) -> bool {
    let shows_time = source.split("{{").skip(1).any(|tag| tag.contains('|') && tag.contains("time"));
    shows_time && !["%Z", "%z", "%:z", "%Q"].iter().any(|zone| source.contains(zone))
}

//! The findings as a page for a person: problems first in each group, passed checks as a number.

use std::fmt::{self, Write as _};

use strum::VariantArray as _;

use super::{CheckGroup, CheckVerdict, Finding, Series};
use crate::config::settings::Origin;

/// Maximum width of a line of names, if a name is not longer.
const WIDTH: usize = 100;
/// Indentation of a problem.
const ITEM: &str = "  ";
/// Indentation below the item, as wide as `  fail: `.
const BELOW: &str = "        ";

/// A setting: key, value as TOML (hidden if it is secret), origin.
pub(crate) type Row<'a> = (&'a str, String, &'a Origin);

/// The page. `Display` writes it without the last line break.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub findings: &'a [Finding],
    /// The shown settings.
    pub settings: &'a [Row<'a>],
    /// True if these are all settings. Passed checks are then listed too.
    pub all: bool,
    /// True if verdicts are coloured.
    pub colours: bool,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in CheckGroup::VARIANTS {
            let findings: Vec<_> = self.findings.iter().filter(|finding| finding.group == *group).collect();
            if !findings.is_empty() {
                writeln!(f, "{}", group.as_str())?;
                self.block(f, &findings)?;
                f.write_char('\n')?;
            }
        }
        self.rows(f)?;
        let [passed, warned, failed] = [CheckVerdict::Pass, CheckVerdict::Warn, CheckVerdict::Fail]
            .map(|result| self.findings.iter().filter(|finding| finding.result == result).count());
        let warnings = if warned == 1 { "warning" } else { "warnings" };
        write!(f, "{}: {failed} failed, {warned} {warnings}, {passed} passed", checks(self.findings.len()))
    }
}

impl Page<'_> {
    /// Writes the findings of one group.
    fn block(&self, f: &mut fmt::Formatter<'_>, findings: &[&Finding]) -> fmt::Result {
        for result in [CheckVerdict::Fail, CheckVerdict::Warn] {
            for same in collapsed(findings.iter().copied().filter(|finding| finding.result == result)) {
                self.problem(f, &same)?;
            }
        }
        let passed: Vec<_> = findings.iter().filter(|finding| finding.result == CheckVerdict::Pass).collect();
        if self.all {
            for finding in passed {
                writeln!(f, "{ITEM}{}{}: {}", self.verdict(finding.result), finding.what, finding.detail)?;
                hint(f, finding)?;
            }
        } else if !passed.is_empty() {
            writeln!(f, "{ITEM}{} passed", checks(passed.len()))?;
        }
        Ok(())
    }

    /// Writes findings that differ only in the name of their item.
    fn problem(&self, f: &mut fmt::Formatter<'_>, same: &[&Finding]) -> fmt::Result {
        let [first, rest @ ..] = same else { return Ok(()) };
        let verdict = self.verdict(first.result);
        match &first.series {
            Some(Series { kind, problem, .. }) if !rest.is_empty() => {
                writeln!(f, "{ITEM}{verdict}{} {kind}", same.len())?;
                writeln!(f, "{BELOW}each: {problem}")?;
                names(f, same.iter().filter_map(|finding| Some(finding.series.as_ref()?.name.as_str())))?;
            }
            _ => {
                writeln!(f, "{ITEM}{verdict}{}", first.what)?;
                writeln!(f, "{BELOW}{}", first.detail)?;
            }
        }
        hint(f, first)
    }

    fn rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.all { "Settings" } else { "Settings that differ from the default" })?;
        if self.settings.is_empty() {
            writeln!(f, "{ITEM}none")?;
        }
        for (key, value, origin) in self.settings {
            writeln!(f, "{ITEM}{key} = {value}  ({origin})")?;
        }
        f.write_char('\n')
    }

    /// The verdict with a colon and a space.
    fn verdict(&self, result: CheckVerdict) -> String {
        let colour = match result {
            CheckVerdict::Pass => 32,
            CheckVerdict::Warn => 33,
            CheckVerdict::Fail => 31,
        };
        if self.colours {
            format!("\x1b[{colour}m{}\x1b[0m: ", result.as_str())
        } else {
            format!("{}: ", result.as_str())
        }
    }
}

fn checks(count: usize) -> String {
    format!("{count} {}", if count == 1 { "check" } else { "checks" })
}

fn hint(f: &mut fmt::Formatter<'_>, finding: &Finding) -> fmt::Result {
    match &finding.advice {
        Some(advice) => writeln!(f, "{BELOW}hint: {advice}"),
        None => Ok(()),
    }
}

/// Groups findings of one kind that have the same problem and advice. Keeps the order of each first finding.
fn collapsed<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<Vec<&'a Finding>> {
    let key = |finding: &'a Finding| {
        let Series { kind, problem, .. } = finding.series.as_ref()?;
        Some((*kind, problem.as_str(), finding.advice.as_deref()))
    };
    let mut all: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        let known = all.iter_mut().find(|same| key(finding).is_some() && key(same[0]) == key(finding));
        match known {
            Some(same) => same.push(finding),
            None => all.push(vec![finding]),
        }
    }
    all
}

/// Writes the names in lines of at most [`WIDTH`] characters.
fn names<'a>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    let mut line = String::new();
    for name in names {
        if line.is_empty() {
            line = format!("{BELOW}{name}");
        } else if line.len() + ", ".len() + name.len() < WIDTH {
            line += ", ";
            line += name;
        } else {
            writeln!(f, "{line},")?;
            line = format!("{BELOW}{name}");
        }
    }
    if line.is_empty() { Ok(()) } else { writeln!(f, "{line}") }
}

#[cfg(test)]
mod tests {
    use super::{
        super::CheckGroup::{Broker, Ledger, Limits},
        *,
    };

    /// Findings with each verdict, in another order than on the page.
    fn findings() -> Vec<Finding> {
        let queue = |name: &str| {
            let finding = Broker.warn(format!("queue {name}"), "missing", "declare it");
            finding.one_of("queues", name)
        };
        vec![
            Limits.pass("amqp.prefetch = 32", "enough"),
            Broker.pass("broker", "connected"),
            queue("a"),
            Broker.fail("queue b", "refused").advise("grant read").one_of("queues", "b").quoting(Some("403")),
            queue("c"),
            Broker.pass("broker, version", "RabbitMQ 4.0"),
            Ledger.fail("ledger", "cannot reach Redis"),
        ]
    }

    fn page(findings: &[Finding], all: bool, colours: bool) -> String {
        let settings = [("amqp.url", "[hidden]".to_owned(), &Origin::Flag)];
        Page { findings, settings: &settings, all, colours }.to_string()
    }

    #[test]
    fn page_has_problems_first_and_counts_passed_checks() {
        let expected = "\
Broker
  fail: queue b
        refused (403)
        hint: grant read
  warn: 2 queues
        each: missing
        a, c
        hint: declare it
  2 checks passed

Ledger
  fail: ledger
        cannot reach Redis

Limits
  1 check passed

Settings that differ from the default
  amqp.url = [hidden]  (--set)

7 checks: 2 failed, 2 warnings, 3 passed";
        assert_eq!(page(&findings(), false, false), expected);
    }

    #[test]
    fn page_with_all_lists_passed_checks() {
        let page = page(&findings(), true, false);
        assert!(
            page.contains("  pass: broker: connected\n  pass: broker, version: RabbitMQ 4.0\n"),
            "{page}"
        );
        assert!(!page.contains("checks passed") && page.contains("\nSettings\n"), "{page}");
    }

    #[test]
    fn page_colours_only_the_verdicts() {
        let coloured = page(&findings(), false, true);
        assert!(coloured.contains("  \x1b[31mfail\x1b[0m: queue b\n"), "{coloured}");
        assert!(coloured.contains("  \x1b[33mwarn\x1b[0m: 2 queues\n"), "{coloured}");
        let plain =
            ["\x1b[31m", "\x1b[33m", "\x1b[0m"].iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, page(&findings(), false, false));
    }

    #[test]
    fn queues_with_different_problems_or_advice_stay_apart() {
        let queue = |name: &str, detail: &str, advice: &str| {
            Broker.warn(format!("queue {name}"), detail, advice).one_of("queues", name)
        };
        let exchange = Broker.warn("exchange e", "missing", "declare it").one_of("exchanges", "e");
        let all = [
            queue("a", "missing", "declare it"),
            queue("b", "missing", "ask an administrator"),
            queue("c", "differs", "declare it"),
            exchange,
            queue("d", "missing", "declare it"),
        ];
        let sizes: Vec<_> = collapsed(all.iter()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }

    #[test]
    fn long_lists_of_names_are_broken_into_lines() {
        let queue = |number: usize| {
            let name = format!("instant-connect.sessions.hold.{number}");
            Broker.fail(format!("queue {name}"), "missing").one_of("queues", name)
        };
        let page = page(&(0..21).map(queue).collect::<Vec<_>>(), false, false);
        assert!(page.contains("  fail: 21 queues\n        each: missing\n        instant-connect"), "{page}");
        assert!(page.lines().all(|line| line.len() <= WIDTH), "{page}");
        assert!(page.contains(",\n        instant-connect.sessions.hold.20\n"), "{page}");
    }
}

//! Checks for operators before a worker runs: one finding for each checked item, with advice if something is wrong. The
//! checks change nothing and show no secret.
//!
//! - `conflicts`: settings that contradict each other: times, numbers and queues
//! - `guests`: messages to guests; `receipts`: their receipts
//! - `exposure`: settings that lose data, show secrets or open access
//! - `broker`: its nodes, version and capabilities; `queues`: the declared topology and the user's permissions
//! - `tls`: expiry of the certificates in files
//! - `webex`: the tokens and the clock; `connect`: the key of Webex Connect
//! - `ledger`, `collector`: availability
//! - `page`: the findings for a person

mod broker;
mod collector;
mod conflicts;
mod connect;
mod exposure;
mod guests;
mod ledger;
pub(crate) mod page;
mod probe;
mod queues;
mod receipts;
#[cfg(test)]
mod tests;
mod tls;
mod webex;

use std::time::Duration;

use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};
use tokio::time::timeout;

use crate::{clock::Clock, config::Loaded, masking::masked};

/// Time limit for all checks over a network, which run concurrently.
const LIMIT: Duration = Duration::from_secs(25);

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", const_into_str)]
pub(crate) enum CheckVerdict {
    Pass,
    /// It works with a drawback, or the check could not be made.
    Warn,
    Fail,
}

impl CheckVerdict {
    /// The name in the output.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// The groups of the page, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub(crate) enum CheckGroup {
    Broker,
    #[strum(serialize = "Instant Connect")]
    InstantConnect,
    Webex,
    /// Messages to guests.
    Guests,
    Ledger,
    /// Times, numbers and queues that must match each other.
    Limits,
    /// Secrets, TLS, proxies and access.
    Exposure,
    /// Logs and spans.
    Telemetry,
}

impl CheckGroup {
    /// The title on the page.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        self.into_str()
    }

    pub(crate) fn pass(self, what: impl Into<String>, detail: impl Into<String>) -> Finding {
        self.finding(CheckVerdict::Pass, what, detail)
    }

    pub(crate) fn warn(
        self,
        what: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        self.finding(CheckVerdict::Warn, what, detail).advise(advice)
    }

    pub(crate) fn fail(self, what: impl Into<String>, detail: impl Into<String>) -> Finding {
        self.finding(CheckVerdict::Fail, what, detail)
    }

    fn finding(self, result: CheckVerdict, what: impl Into<String>, detail: impl Into<String>) -> Finding {
        let (what, detail) = (what.into(), detail.into());
        Finding { group: self, what, result, detail, advice: None, series: None }
    }
}

/// The result of one check, with its explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    #[serde(skip)]
    pub group: CheckGroup,
    /// The checked item: settings with their values, or something that they name.
    pub what: String,
    pub result: CheckVerdict,
    /// The explanation for a person.
    pub detail: String,
    /// The advice, if there is any.
    pub advice: Option<String>,
    /// Set if there are several items of this kind.
    #[serde(skip)]
    pub series: Option<Series>,
}

/// Items of one kind. The page shows findings with the same series and advice as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// The kind in plural, such as `queues`.
    pub kind: &'static str,
    /// The name of this item.
    pub name: String,
    /// The problem without the name of the item.
    pub problem: String,
}

impl Finding {
    /// Adds or replaces the advice.
    #[must_use]
    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    /// Marks the item as one of several of the same `kind`. The detail so far must not contain the name.
    #[must_use]
    fn one_of(self, kind: &'static str, name: impl Into<String>) -> Self {
        let series = Series { kind, name: name.into(), problem: self.detail.clone() };
        Self { series: Some(series), ..self }
    }

    /// Adds a message of the broker to the detail.
    #[must_use]
    fn quoting(self, message: Option<&str>) -> Self {
        match message {
            Some(message) => Self { detail: format!("{} ({message})", self.detail), ..self },
            None => self,
        }
    }
}

/// Checks the settings for conflicts and risks, without any connection.
#[must_use]
pub(crate) fn settings(loaded: &Loaded) -> Vec<Finding> {
    [
        conflicts::all(loaded),
        exposure::all(loaded),
        guests::all(loaded),
        receipts::all(loaded),
        tls::all(loaded, Clock::system().now()),
    ]
    .concat()
}

/// Checks everything that the settings name over the network, concurrently; the ledger only if `with_ledger`.
pub(crate) async fn connect(loaded: &Loaded, with_ledger: bool) -> Vec<Finding> {
    let (mut broker, mut webex, mut guests) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ledger, mut collector) = (Vec::new(), Vec::new());
    tokio::join!(
        within(CheckGroup::Broker, "broker", &mut broker, async |found| broker::run(loaded, found).await),
        within(CheckGroup::Webex, "Webex", &mut webex, async |found| found
            .extend(Box::pin(webex::run(loaded)).await)),
        within(CheckGroup::Guests, "Webex Connect", &mut guests, async |found| found
            .extend(connect::run(loaded).await)),
        within(CheckGroup::Ledger, "ledger", &mut ledger, async |found| {
            if with_ledger {
                found.extend(ledger::run(loaded).await);
            }
        }),
        within(CheckGroup::Telemetry, "collector", &mut collector, async |found| found
            .extend(collector::run(loaded).await)),
    );
    let mut found = [broker, webex, guests, ledger, collector].concat();
    for finding in &mut found {
        finding.detail = masked(&finding.detail).into_owned();
        if let Some(series) = &mut finding.series {
            series.problem = masked(&series.problem).into_owned();
        }
    }
    found
}

/// Runs the checks until the time limit; keeps findings made so far.
async fn within(
    group: CheckGroup,
    what: &str,
    found: &mut Vec<Finding>,
    checks: impl AsyncFnOnce(&mut Vec<Finding>),
) {
    if timeout(LIMIT, checks(found)).await.is_err() {
        let detail = format!("checks did not finish within {LIMIT:?}");
        found.push(group.fail(what, detail).advise("check that it responds, and how fast"));
    }
}

/// The settings this finding refers to, with their current values.
struct About(CheckGroup, String);

/// Starts a finding about the settings `keys`.
fn on(group: CheckGroup, loaded: &Loaded, keys: &[&str]) -> About {
    let rows = keys.iter().map(|key| format!("{key} = {}", loaded.settings.shown(key)));
    About(group, rows.collect::<Vec<_>>().join(", "))
}

impl About {
    fn pass(self, detail: impl Into<String>) -> Finding {
        self.0.pass(self.1, detail)
    }

    fn warn(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.0.warn(self.1, detail, advice)
    }

    fn fail(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        self.0.fail(self.1, detail).advise(advice)
    }
}

//! Checks for operators before a worker runs: one finding for each checked item, with advice if something is wrong. The
//! checks change nothing and show no secret.
//!
//! - `conflicts`: settings that contradict each other: times, numbers and queues
//! - `exposure`: settings that lose data, show secrets or open access
//! - `broker`: its nodes, version and capabilities; `queues`: the declared topology and the user's permissions
//! - `tls`: expiry of the certificates in files
//! - `webex`: the tokens and the clock
//! - `ledger`, `collector`: availability

mod broker;
mod collector;
mod conflicts;
mod exposure;
mod ledger;
mod probe;
mod queues;
#[cfg(test)]
mod tests;
mod tls;
mod webex;

use std::time::Duration;

use serde::Serialize;
use strum::IntoStaticStr;
use tokio::time::timeout;

use crate::{config::Loaded, masking::masked};

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

/// The result of one check, with its explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The checked item: settings with their values, or something that they name.
    pub what: String,
    pub result: CheckVerdict,
    /// The explanation for a person.
    pub detail: String,
    /// The advice, if there is any.
    pub advice: Option<String>,
}

impl Finding {
    pub(crate) fn pass(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), result: CheckVerdict::Pass, detail: detail.into(), advice: None }
    }

    pub(crate) fn warn(
        what: impl Into<String>,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            what: what.into(),
            result: CheckVerdict::Warn,
            detail: detail.into(),
            advice: Some(advice.into()),
        }
    }

    pub(crate) fn fail(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), result: CheckVerdict::Fail, detail: detail.into(), advice: None }
    }

    /// Adds or replaces the advice.
    #[must_use]
    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Checks the settings for conflicts and risks, without any connection.
#[must_use]
pub(crate) fn settings(loaded: &Loaded) -> Vec<Finding> {
    [conflicts::all(loaded), exposure::all(loaded), tls::all(loaded)].concat()
}

/// Checks everything that the settings name over the network, concurrently.
pub(crate) async fn connect(loaded: &Loaded) -> Vec<Finding> {
    let (mut broker, mut webex) = (Vec::new(), Vec::new());
    let (mut ledger, mut collector) = (Vec::new(), Vec::new());
    tokio::join!(
        within("broker", &mut broker, async |found| broker::run(loaded, found).await),
        within("Webex", &mut webex, async |found| found.extend(Box::pin(webex::run(loaded)).await)),
        within("ledger", &mut ledger, async |found| found.extend(ledger::run(loaded).await)),
        within("collector", &mut collector, async |found| found.extend(collector::run(loaded).await)),
    );
    let mut found = [broker, webex, ledger, collector].concat();
    for finding in &mut found {
        finding.detail = masked(&finding.detail).into_owned();
    }
    found
}

/// Runs the checks until the time limit; keeps findings made so far.
async fn within(what: &str, found: &mut Vec<Finding>, checks: impl AsyncFnOnce(&mut Vec<Finding>)) {
    if timeout(LIMIT, checks(found)).await.is_err() {
        let detail = format!("checks did not finish within {LIMIT:?}");
        found.push(Finding::fail(what, detail).advise("check that it responds, and how fast"));
    }
}

/// The settings this finding refers to, with their current values.
struct About(String);

/// Starts a finding about the settings `keys`.
fn on(loaded: &Loaded, keys: &[&str]) -> About {
    let rows = keys.iter().map(|key| format!("{key} = {}", loaded.settings.shown(key)));
    About(rows.collect::<Vec<_>>().join(", "))
}

impl About {
    fn pass(self, detail: impl Into<String>) -> Finding {
        Finding::pass(self.0, detail)
    }

    fn warn(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding::warn(self.0, detail, advice)
    }

    fn fail(self, detail: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding::fail(self.0, detail).advise(advice)
    }
}

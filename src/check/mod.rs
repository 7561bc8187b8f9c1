//! What an operator is told before a worker runs: one finding for each thing that was looked at, with what to do where it
//! is not as it should be. Nothing here changes anything, and nothing shows a secret.
//!
//! - `conflicts`: settings that do not go together: times, numbers, queues
//! - `exposure`: settings that lose, show or open something
//! - `broker`: its nodes, its version, what it can do; `queues`: what is declared, and what its user may do
//! - `tls`: when the certificates in files end
//! - `webex`: the tokens, and the clock
//! - `ledger`, `collector`: whether they can be used

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

/// For everything that is tried over a network; all of it at the same time.
const LIMIT: Duration = Duration::from_secs(25);

/// How a thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", const_into_str)]
pub(crate) enum CheckVerdict {
    /// As it should be.
    Pass,
    /// It works, with a drawback that is meant or not; or it could not be found out.
    Warn,
    /// It does not work.
    Fail,
}

impl CheckVerdict {
    /// As in the output.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        self.into_str()
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What: settings with their values, or a thing that they name.
    pub what: String,
    /// How it is.
    pub result: CheckVerdict,
    /// In words.
    pub detail: String,
    /// What to do, where there is something.
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    pub(crate) fn pass(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), result: CheckVerdict::Pass, detail: detail.into(), advice: None }
    }

    /// Doubtful.
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

    /// Wrong. What to do may stand in `detail`, after `hint: `, as in errors.
    pub(crate) fn fail(what: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let (detail, advice) = match detail.split_once("; hint: ") {
            Some((detail, advice)) => (detail.to_owned(), Some(advice.to_owned())),
            None => (detail, None),
        };
        Self { what: what.into(), result: CheckVerdict::Fail, detail, advice }
    }

    /// As it is, with what to do.
    #[must_use]
    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Whether the settings go together, and what they open or lose. Tries nothing.
#[must_use]
pub(crate) fn settings(loaded: &Loaded) -> Vec<Finding> {
    [conflicts::all(loaded), exposure::all(loaded), tls::all(loaded)].concat()
}

/// Tries what the settings name, all at the same time.
pub(crate) async fn connect(loaded: &Loaded) -> Vec<Finding> {
    let (mut broker, mut webex) = (Vec::new(), Vec::new());
    let (mut ledger, mut collector) = (Vec::new(), Vec::new());
    tokio::join!(
        within("broker", &mut broker, async |found| broker::look(loaded, found).await),
        within("Webex", &mut webex, async |found| found.extend(Box::pin(webex::look(loaded)).await)),
        within("ledger", &mut ledger, async |found| found.extend(ledger::look(loaded).await)),
        within("collector", &mut collector, async |found| found.extend(collector::look(loaded).await)),
    );
    let mut found = [broker, webex, ledger, collector].concat();
    for finding in &mut found {
        finding.detail = masked(&finding.detail).into_owned();
    }
    found
}

/// Looks for as long as it may; what was found by then stays.
async fn within(what: &str, found: &mut Vec<Finding>, look: impl AsyncFnOnce(&mut Vec<Finding>)) {
    if timeout(LIMIT, look(found)).await.is_err() {
        let detail = format!("could not be tried as a whole within {LIMIT:?}");
        found.push(Finding::fail(what, detail).advise("see whether it answers at all, and how fast"));
    }
}

/// `settings` about which something is to be said, as they are.
struct About(String);

/// `keys` with their values.
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

//! `check`: checks the effective configuration for conflicts and risks, with `--connect` tests its connections, and shows
//! the settings.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::{CommandError, say, say_json};
use crate::{
    check::{self, CheckGroup, CheckVerdict, Finding, page::Page},
    config::{ConfigError, Loaded},
    upstream::TokenSource,
};

#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct Args {
    /// Also test the broker, its exchanges, queues and permissions, the tokens, the ledger and the collector
    #[arg(long)]
    connect: bool,
    /// With --connect: do not open the ledger, because its file is on the volume of a running worker
    #[arg(long, requires = "connect")]
    without_ledger: bool,
    /// Show every setting, and list the passed checks
    #[arg(long)]
    all: bool,
    /// Print JSON with every setting and every check
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let mut findings = tokens(loaded);
    findings
        .extend(loaded.network().err().map(|error| CheckGroup::Exposure.fail("proxy", error.to_string())));
    let configured = findings.iter().all(|finding| finding.result == CheckVerdict::Pass);
    findings.extend(check::settings(loaded));
    if args.connect {
        findings.extend(Box::pin(check::connect(loaded, !args.without_ledger)).await);
    }
    if args.json {
        let settings: Vec<_> = loaded
            .settings
            .rows()
            .map(|(key, value, origin)| json!({"key": key, "value": value, "origin": origin.to_string()}))
            .collect();
        say_json(&json!({"settings": settings, "findings": findings}))?;
    } else {
        let settings: Vec<_> = if args.all {
            loaded.settings.rows().collect()
        } else {
            loaded.settings.changed_rows().collect()
        };
        let page = Page { findings: &findings, settings: &settings, all: args.all, colours: colours() };
        say(&page.to_string())?;
    }
    let failed = findings.iter().filter(|finding| finding.result == CheckVerdict::Fail).count();
    if !configured {
        return Err(CommandError::Usage(
            "a token is missing or unreadable, or a proxy is unusable".to_owned(),
        ));
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(CommandError::Failed(format!("{failed} of {} checks failed", findings.len())))
    }
}

/// True if standard output is a terminal and `NO_COLOR` (no-color.org) is not set.
fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn tokens(loaded: &Loaded) -> Vec<Finding> {
    let given = |group: CheckGroup, what, token: Result<TokenSource, ConfigError>| match token {
        Ok(_) => group.pass(what, "given"),
        Err(error) => group.fail(what, error.to_string()),
    };
    let token = loaded.instant_connect_token();
    let mut findings = vec![given(CheckGroup::InstantConnect, "token of Instant Connect", token)];
    if loaded.delivers_to_hosts() {
        findings.push(given(CheckGroup::Webex, "token of Webex Messages", loaded.hosts_token()));
    }
    findings
}

//! `check`: shows the effective configuration, checks it for conflicts and risks, and with `--connect` tests its
//! connections.

use serde_json::json;

use super::{CommandError, say, say_json};
use crate::{
    check::{self, CheckVerdict, Finding},
    config::{ConfigError, Loaded},
    upstream::TokenSource,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also test the broker, its exchanges, queues and permissions, the tokens, the ledger and the collector
    #[arg(long)]
    connect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let mut findings = tokens(loaded);
    findings.extend(loaded.network().err().map(|error| Finding::fail("proxy", error.to_string())));
    let configured = findings.iter().all(|finding| finding.result == CheckVerdict::Pass);
    findings.extend(check::settings(loaded));
    if args.connect {
        findings.extend(Box::pin(check::connect(loaded)).await);
    }
    if args.json {
        let settings: Vec<_> = loaded
            .settings
            .rows()
            .map(|(key, value, origin)| json!({"key": key, "value": value, "origin": origin.to_string()}))
            .collect();
        say_json(&json!({"settings": settings, "findings": findings}))?;
    } else {
        for (key, value, origin) in loaded.settings.rows() {
            say(&format!("{key} = {value}  ({origin})"))?;
        }
        for finding in &findings {
            say(&line(finding))?;
        }
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

fn line(Finding { what, result, detail, advice }: &Finding) -> String {
    let advice = advice.as_ref().map_or_else(String::new, |advice| format!("; hint: {advice}"));
    format!("{}: {what}: {detail}{advice}", result.as_str())
}

fn tokens(loaded: &Loaded) -> Vec<Finding> {
    let given = |what, token: Result<TokenSource, ConfigError>| match token {
        Ok(_) => Finding::pass(what, "given"),
        Err(error) => Finding::fail(what, error.to_string()),
    };
    let mut findings = vec![given("token of Instant Connect", loaded.instant_connect_token())];
    if loaded.delivers_to_hosts() {
        findings.push(given("token of Webex Messages", loaded.hosts_token()));
    }
    findings
}

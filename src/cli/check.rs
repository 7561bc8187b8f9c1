//! `check`: the configuration as understood, and with `--connect` whether what it names is there.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::{Failure, say, say_json};
use crate::{
    broker::{
        connection::{Connector, close},
        topology::Topology,
    },
    config::{Declare, Loaded},
    contract::trace::TraceContext,
    telemetry::metrics::{Metrics, labels::Upstream::WebexMessages},
    upstream::{Limits, TokenSource, Upstream},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also try the broker, its exchanges and queues, and the tokens
    #[arg(long)]
    connect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    result: &'static str,
    detail: String,
}

impl Finding {
    fn of(what: &str, result: Result<String, String>) -> Self {
        let (result, detail) = match result {
            Ok(detail) => ("pass", detail),
            Err(detail) => ("fail", detail),
        };
        Self { what: what.to_owned(), result, detail }
    }
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), Failure> {
    let mut findings = tokens(loaded);
    let configured = findings.iter().all(|finding| finding.result == "pass");
    if args.connect {
        findings.extend(connect(loaded).await);
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
            say(&format!("{}: {}: {}", finding.result, finding.what, finding.detail))?;
        }
    }
    let failed = findings.iter().filter(|finding| finding.result == "fail").count();
    if !configured {
        return Err(Failure::Usage("a token is missing or can't be read".to_owned()));
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::Failed(format!("{failed} of {} checks failed", findings.len())))
    }
}

fn tokens(loaded: &Loaded) -> Vec<Finding> {
    let given = |result: Result<TokenSource, _>| {
        result.map(|_| "given".to_owned()).map_err(|error: crate::config::ConfigError| error.to_string())
    };
    let mut findings = vec![Finding::of("token of Instant Connect", given(loaded.instant_connect_token()))];
    if loaded.delivers_to_hosts() {
        findings.push(Finding::of("token of Webex Messages", given(loaded.hosts_token())));
    }
    findings
}

async fn connect(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = vec![Finding::of("broker", broker(loaded).await)];
    // A token is tried only where the worker itself would send it.
    if loaded.delivers_to_hosts()
        && let Ok(token) = loaded.hosts_token()
    {
        findings.push(Finding::of("token of Webex Messages at Webex", person(loaded, token).await));
    }
    findings
}

async fn broker(loaded: &Loaded) -> Result<String, String> {
    let connector = Connector::new(&loaded.config.amqp);
    let connection = connector.connect_once("check").await.map_err(|error| error.to_string())?;
    let topology = Topology::new(&loaded.config.topology, loaded.config.retry.hold.delays());
    // A check changes nothing: queues that `create` would declare are only looked for.
    let passive = topology.apply(&connection, true, connector.timeout).await;
    close(&connection).await;
    match passive {
        Ok(()) => Ok("connected; all exchanges and queues are there".to_owned()),
        Err(error) if loaded.config.topology.declare == Declare::Create => {
            Ok(format!("connected; at its start the worker declares what is missing ({error})"))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn person(loaded: &Loaded, token: TokenSource) -> Result<String, String> {
    let url = loaded.people_me_url();
    let section = &loaded.config.hosts;
    let limits = Limits {
        connect_timeout: section.connect_timeout.get(),
        timeout: section.timeout.get(),
        body_bytes_max: section.body_bytes_max.size(),
        rate_limit_wait: Duration::from_secs(1),
    };
    // Counted, and never shown: this ends at once.
    let metrics = Metrics::new(&[]).map_err(|error| error.to_string())?.upstream(WebexMessages);
    let upstream = Upstream::new("Webex", &url, token, limits, metrics).map_err(|error| error.to_string())?;
    let trace = TraceContext::of(&BTreeMap::new());
    upstream.get(url, &trace).await.map(|_| "accepted".to_owned()).map_err(|error| error.to_string())
}

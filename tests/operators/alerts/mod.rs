//! The rules and the dashboard on a real Prometheus, which scrapes real workers during real faults.

mod faults;
pub(super) mod prometheus;

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::sync::watch;

use super::expressions;
use prometheus::Prometheus;

/// The alert that always fires.
const WATCHDOG: &str = "InstantConnectWatchdog";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_alert_fires_in_its_fault_and_none_in_a_healthy_run() {
    let prometheus = Prometheus::start().await;
    let rules = prometheus.rules().await;
    let all: BTreeSet<_> = of_type(&rules, "alerting").map(|rule| rule["name"].as_str().unwrap()).collect();
    let (done, healthy) = watch::channel(false);
    let look = async {
        let mut fired = Box::pin(faults::all(&prometheus)).await;
        prometheus.until(&format!("ALERTS{{alertname=\"{WATCHDOG}\",alertstate=\"firing\"}}")).await;
        fired.insert(WATCHDOG);
        assert_eq!(fired, all, "left: alerts that fired in their own fault; right: alerts of the rules");
        for rule in of_type(&rules, "recording") {
            assert_has_series(&prometheus, rule["name"].as_str().unwrap()).await;
        }
        for expression in expressions() {
            assert_has_series(&prometheus, &with_all(&expression)).await;
        }
        for series in prometheus.query("count by (job, alertname) (count_over_time(ALERTS[1h]))").await {
            eprintln!("fired or pending at some time: {}", series["metric"]);
        }
        done.send_replace(true);
    };
    tokio::join!(look, faults::none(&prometheus, healthy));
}

fn of_type<'a>(rules: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    rules.iter().filter(move |rule| rule["type"] == kind)
}

/// The expression with Grafana's variables set to "All" and a short interval.
fn with_all(expression: &str) -> String {
    let expression = expression.replace("$__rate_interval", "10s");
    ["$namespace", "$job", "$instance"].iter().fold(expression, |text, name| text.replace(name, ".*"))
}

/// Asserts that at least one series has a numeric value.
async fn assert_has_series(prometheus: &Prometheus, expression: &str) {
    let series = prometheus.query(expression).await;
    assert!(series.iter().any(|series| series["value"][1] != "NaN"), "{expression}: {series:?}");
}

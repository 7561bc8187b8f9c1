//! The alert rules in the chart: the unchanged file, limited to the workers of one release.

use std::path::Path;

use serde_json::{Value, json};

use super::helm::{
    CHART, LEAST, Objects, case, objects, only, printed, python, read, rendered, run, template,
};

const TESTS: &str = "tests/operators/alerts.test.yaml";

/// The rules of this release in this namespace, with more values.
fn rules(release: &str, namespace: &str, values: &[&str]) -> Objects {
    let mut arguments = vec!["template", release, CHART, "--namespace", namespace, LEAST[0], LEAST[1]];
    arguments.extend(["--set=prometheusRule.enabled=true,podMonitor.enabled=true"]);
    arguments.extend_from_slice(values);
    objects(&printed(&run("scripts/helm", &arguments, "", "4.3"), release))
}

/// Writes the groups of a `PrometheusRule` as a rules file (JSON is YAML).
fn write(objects: &Objects, path: &Path) {
    std::fs::write(path, only(objects, "PrometheusRule")["spec"].to_string()).unwrap();
}

fn promtool(arguments: &[&str]) {
    printed(&run("promtool", arguments, "", ""), &format!("promtool {arguments:?}"));
}

/// All alerts of a `PrometheusRule`.
fn alerts(objects: &Objects) -> Vec<Value> {
    let groups = only(objects, "PrometheusRule")["spec"]["groups"].as_array().unwrap().clone();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone());
    rules.filter(|rule| rule["alert"].is_string()).collect()
}

#[test]
fn rules_of_each_case_pass_promtool_check() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["production-values.yaml", "everything-values.yaml"] {
        let file = folder.path().join(name);
        write(&case(name), &file);
        promtool(&["check", "rules", "--lint-fatal", file.to_str().unwrap()]);
    }
}

/// Tests of the file for several installations, or for none. The next test replaces them for the release.
const OF_SEVERAL: [&str; 3] = [
    "no worker has ever run\n",
    "the only worker of a namespace is missing while another namespace has one; one of two workers is down\n",
    "an ingress of its own is no worker, and its end has an alert of its own\n",
];

/// The tests of the file also pass for the chart's output, after its own severities and links are restored.
#[test]
fn chart_rules_pass_the_tests_of_the_rules_file() {
    let folder = tempfile::tempdir().unwrap();
    let values = [
        "--set=prometheusRule.job=icw,prometheusRule.severities.page=page,prometheusRule.severities.ticket=ticket",
        "--set=prometheusRule.runbookUrl=https://wiki.example/RUNBOOK.md",
        "--set-json=prometheusRule.disabled=[]",
    ];
    write(&rules("icw", "video", &values), &folder.path().join("rules.yaml"));
    let tests = read(TESTS)
        .replace("../../charts/instant-connect-worker/files/alerts.yaml", "rules.yaml")
        .replace("RUNBOOK.md#", "https://wiki.example/RUNBOOK.md#")
        .replace("job=\"icw\"", "namespace=\"video\",job=\"icw\"");
    let parts: Vec<_> = tests.split("\n  - name: ").collect();
    let kept: Vec<_> =
        parts.iter().copied().filter(|part| !OF_SEVERAL.iter().any(|name| part.starts_with(name))).collect();
    assert_eq!(kept.len() + OF_SEVERAL.len(), parts.len());
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, kept.join("\n  - name: ")).unwrap();
    promtool(&["test", "rules", file.to_str().unwrap()]);
}

/// A missing worker must cause a page even if another release has workers. Neither release affects the other.
#[test]
fn two_releases_watch_only_their_own_workers() {
    let folder = tempfile::tempdir().unwrap();
    for (namespace, file) in [("a", "a.yaml"), ("b", "b.yaml")] {
        write(&rules("icw", namespace, &[]), &folder.path().join(file));
    }
    let name = "icw-instant-connect-worker";
    let series = |metric: &str, namespace: &str, more: &str, values: &str| json!({"series": format!("{metric}{{namespace=\"{namespace}\",job=\"{namespace}/{name}\",instance=\"{namespace}\"{more}}}"), "values": values});
    let firing = |alert: &str, more: &str| json!({"labels": format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",severity=\"critical\",namespace=\"a\",job=\"a/{name}\"{more}}}"), "value": 1});
    let expression = "ALERTS{alertstate=\"firing\"}";
    let bucket = ("instant_connect_event_to_link_seconds_bucket", ",le=\"10\"");
    let count = ("instant_connect_event_to_link_seconds_count", "");
    let dead = ("instant_connect_dead_letters_total", ",stage=\"link\",class=\"exhausted\"");
    let tests = json!({"rule_files": ["a.yaml", "b.yaml"], "evaluation_interval": "30s", "tests": [
        {"name": "the workers of a are gone after 10 minutes, those of b live", "interval": "30s",
         "input_series": [
            series("instant_connect_build_info", "a", "", "1x20 stale"),
            series("instant_connect_build_info", "b", "", "1x1000")],
         "promql_expr_test": [
            {"expr": expression, "eval_time": "9m"},
            {"expr": expression, "eval_time": "15m", "exp_samples": [firing("InstantConnectWorkerMissing", "")]},
            {"expr": expression, "eval_time": "4h", "exp_samples": [firing("InstantConnectWorkerMissing", "")]}]},
        {"name": "half of the links of a are late, none of b", "interval": "1m",
         "input_series": [
            series("instant_connect_build_info", "a", "", "1x200"), series("instant_connect_build_info", "b", "", "1x200"),
            series(bucket.0, "a", bucket.1, "0+5x200"), series(bucket.0, "b", bucket.1, "0+10x200"),
            series(count.0, "a", count.1, "0+10x200"), series(count.0, "b", count.1, "0+10x200"),
            series(dead.0, "a", dead.1, "0x200"), series(dead.0, "b", dead.1, "0x200")],
         "promql_expr_test": [
            {"expr": "ALERTS{alertname=\"InstantConnectLate\",alertstate=\"firing\"}", "eval_time": "2h",
             "exp_samples": [firing("InstantConnectLate", ",objective=\"link\"")]},
            {"expr": "round(instant_connect:late:ratio_rate1h, 0.01)", "eval_time": "2h", "exp_samples": [
                {"labels": format!("{{namespace=\"a\",job=\"a/{name}\",objective=\"link\"}}"), "value": 0.5},
                {"labels": format!("{{namespace=\"b\",job=\"b/{name}\",objective=\"link\"}}"), "value": 0}]}]},
    ]});
    let file = folder.path().join("tests.yaml");
    std::fs::write(&file, tests.to_string()).unwrap();
    promtool(&["test", "rules", file.to_str().unwrap()]);
}

/// A parser of Prometheus queries reads every selector: `job=~".+"` in the file, and the release's own job in the chart's output.
#[test]
fn selectors_match_the_intended_jobs() {
    let selectors = |rules: &str| {
        let output = run(python(), &["tests/python/promql_selectors.py"], rules, "");
        serde_json::from_str::<Vec<Value>>(&printed(&output, "promql_selectors.py")).unwrap()
    };
    let file = selectors(&read(&format!("{CHART}/files/alerts.yaml")));
    assert!(file.len() > 80, "{}", file.len());
    for selector in &file {
        assert_eq!(selector["matchers"]["job"], "=~.+", "{selector}");
    }
    let ingress =
        "--set=ingress.enabled=true,ingress.clients.a.existingSecret=s,ingress.tls.existingSecret=t";
    let chart = rules("icw", "video", &["--set-json=prometheusRule.disabled=[]", ingress]);
    let chart = selectors(&only(&chart, "PrometheusRule")["spec"].to_string());
    assert_eq!(chart.len(), file.len() + 1, "the chart knows that there must be an ingress");
    for selector in &chart {
        assert_eq!(selector["matchers"]["namespace"], "=video", "{selector}");
        assert_eq!(selector["matchers"]["job"], "=video/icw-instant-connect-worker", "{selector}");
    }
}

#[test]
fn job_of_the_rules_equals_the_pod_monitors_job() {
    let objects = case("production-values.yaml");
    let monitor = &only(&objects, "PodMonitor")["metadata"];
    let job = format!("{}/{}", monitor["namespace"].as_str().unwrap(), monitor["name"].as_str().unwrap());
    assert!(only(&objects, "PrometheusRule").to_string().contains(&format!("job=\\\"{job}\\\"")), "{job}");
}

#[test]
fn severities_labels_links_and_overrides_reach_the_alerts() {
    let production = alerts(&case("production-values.yaml"));
    let everything = alerts(&case("everything-values.yaml"));
    assert_eq!(production.len() + 1, everything.len(), "the watchdog is off by default");
    for alert in &production {
        let name = alert["alert"].as_str().unwrap();
        let link = format!("https://wiki.example/icw/RUNBOOK.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], link);
        assert!(["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
    }
    let file = &objects(&read(&format!("{CHART}/files/alerts.yaml")))[0];
    let original = |name: &Value| {
        let groups = file["groups"].as_array().unwrap().iter();
        groups
            .flat_map(|group| group["rules"].as_array().unwrap())
            .find(|rule| rule["alert"] == *name)
            .unwrap()
    };
    for alert in &everything {
        let was = original(&alert["alert"]);
        let (severity, time) = match alert["alert"].as_str().unwrap() {
            "InstantConnectBreakerOpen" => (json!("p2"), json!("10m")),
            "InstantConnectDeadLetters" => (json!("none"), was["for"].clone()),
            _ => match was["labels"]["severity"].as_str().unwrap() {
                "page" => (json!("p1"), was["for"].clone()),
                "ticket" => (json!("p3"), was["for"].clone()),
                _ => (json!("none"), was["for"].clone()),
            },
        };
        assert_eq!((&alert["labels"]["severity"], &alert["for"]), (&severity, &time), "{}", alert["alert"]);
        assert_eq!(alert["labels"]["team"], "video");
        assert_eq!(alert["annotations"]["dashboard"], "https://grafana.example/d/instant-connect-worker");
        assert!(alert["annotations"]["runbook_url"].is_null(), "a relative link does not work");
        assert!(alert["annotations"]["runbook"].as_str().unwrap().contains("RUNBOOK.md"));
    }
    assert_eq!(
        only(&case("everything-values.yaml"), "PrometheusRule")["metadata"]["namespace"],
        "monitoring"
    );
}

/// The routes of kube-prometheus: `critical` and its Watchdog have their own receivers; the rest goes to the default
/// one.
const KUBE_PROMETHEUS: &str = r"
route:
  receiver: Default
  group_by: [namespace]
  routes:
    - {receiver: Watchdog, matchers: ['alertname = Watchdog']}
    - {receiver: nobody, matchers: ['alertname = InfoInhibitor']}
    - {receiver: Critical, matchers: ['severity = critical']}
receivers: [{name: Default}, {name: Watchdog}, {name: Critical}, {name: nobody}]
";

#[test]
fn pages_and_tickets_reach_their_receivers_under_kube_prometheus() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KUBE_PROMETHEUS).unwrap();
    let config = format!("--config.file={}", file.path().display());
    let chart = alerts(&case("production-values.yaml"));
    let pages = objects(&read(&format!("{CHART}/files/alerts.yaml")))[0]
        .to_string()
        .matches("\"severity\":\"page\"")
        .count();
    let mut woken = 0;
    for alert in &chart {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        let labels =
            [format!("alertname={}", alert["alert"].as_str().unwrap()), format!("severity={severity}")];
        let arguments = ["config", "routes", "test", &config, &labels[0], &labels[1]];
        let receiver = printed(&run("amtool", &arguments, "", ""), "amtool");
        woken += usize::from(receiver.trim() == "Critical");
        assert_eq!(
            receiver.trim(),
            if severity == "critical" { "Critical" } else { "Default" },
            "{labels:?}"
        );
    }
    // Without an ingress, none can be missing.
    assert_eq!(woken, pages - 1, "only pages may reach the critical receiver");
}

#[test]
fn rules_without_a_pod_monitor_use_the_given_job() {
    let objects =
        rendered(&[LEAST[0], LEAST[1], "--set=prometheusRule.enabled=true,prometheusRule.job=workers"]);
    let rule = only(&objects, "PrometheusRule").to_string();
    assert!(rule.contains("namespace=\\\"video\\\",job=\\\"workers\\\""), "{rule}");
    assert!(!template("4.3", &[LEAST[0], LEAST[1], "--set=prometheusRule.enabled=true"]).status.success());
}

#[test]
fn dashboard_config_map_links_to_the_runbook_url() {
    let objects = case("production-values.yaml");
    let map = objects.iter().find(|object| !object["data"]["instant-connect-worker.json"].is_null()).unwrap();
    let shown: Value =
        serde_json::from_str(map["data"]["instant-connect-worker.json"].as_str().unwrap()).unwrap();
    let file: Value = serde_json::from_str(&read(&format!("{CHART}/files/dashboard.json"))).unwrap();
    let mut expected = file.clone();
    assert_eq!(expected["links"][0]["url"], "RUNBOOK.md");
    expected["links"][0]["url"] = json!("https://wiki.example/icw/RUNBOOK.md");
    assert!(shown == expected);
    assert_eq!(map["metadata"]["namespace"], "monitoring");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Video");
}

//! Rules, dashboard and runbook refer only to existing metrics and to each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use instant_connect_worker::{stages, telemetry::metrics::Metrics};
use regex::Regex;

use super::{DASHBOARD, RULES, alerts::prometheus::shortened, expressions, read};

/// Labels that Prometheus adds to the series of a target, and the rules to their own.
const ADDED_LABELS: [&str; 6] = ["namespace", "job", "instance", "le", "objective", "alertname"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a program, which must succeed. Returns its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(path("")).output();
    let output = output.unwrap_or_else(|error| panic!("{program}, which `make test` installs: {error}"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}:\n{said}{errors}");
    said.into_owned()
}

#[test]
fn rules_pass_promtool_check_and_test() {
    run("promtool", &["check", "rules", "--lint-fatal", RULES]);
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("rules.yaml");
    std::fs::write(&short, shortened(&read(RULES))).unwrap();
    run("promtool", &["check", "rules", "--lint-fatal", short.to_str().unwrap()]);
    run("promtool", &["test", "rules", "tests/operators/alerts.test.yaml"]);
}

#[test]
fn dashboard_is_the_output_of_its_script() {
    let python = std::env::var("ICW_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    assert!(
        run(&python, &["scripts/dashboard"]) == read(DASHBOARD),
        "the dashboard is outdated: run `make dashboard`"
    );
}

/// All metrics with their labels and the values of each label.
fn metrics() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let delays = [1, 5, 30, 120, 600].map(Duration::from_secs);
    let metrics = Metrics::new(stages::ALL, &delays).unwrap();
    let mut text = metrics.render().unwrap();
    metrics.set_role("ingress");
    text += &metrics.render().unwrap();
    let label = Regex::new(r#"([a-z_]+)="([^"]*)""#).unwrap();
    let mut metrics: BTreeMap<_, BTreeMap<_, BTreeSet<_>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap().to_owned();
        let labels = metrics.entry(name).or_default();
        for found in label.captures_iter(line) {
            labels.entry(found[1].to_owned()).or_default().insert(found[2].to_owned());
        }
    }
    metrics
}

#[test]
fn expressions_use_existing_metrics_labels_and_values() {
    let metrics = metrics();
    let rules = read(RULES);
    let rules: Vec<_> = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let recorded: BTreeSet<_> =
        rules.iter().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    let selector = Regex::new(r"\b(instant_connect(?::\w+)*\w*|process_\w+)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
    let grouping = Regex::new(r"\b(?:by|on) \(([^)]*)\)").unwrap();
    let labels: BTreeSet<_> = metrics.values().flat_map(BTreeMap::keys).map(String::as_str).collect();
    let known = |metric: &str, label: &str, value: &str| {
        ADDED_LABELS.contains(&label)
            || metrics[metric].get(label).is_some_and(|values| values.contains(value))
    };
    for expression in expressions().into_iter().chain([rules.join("\n")]) {
        for found in selector.captures_iter(&expression) {
            let metric = &found[1];
            assert!(metrics.contains_key(metric) || recorded.contains(metric), "{metric}: {expression}");
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            for part in matcher.captures_iter(labels) {
                for value in part[3].split('|') {
                    assert!(known(metric, &part[1], value), "{metric}{{{}}}", &part[0]);
                }
            }
        }
        for found in grouping.captures_iter(&expression) {
            for label in found[1].split(", ") {
                assert!(labels.contains(label) || ADDED_LABELS.contains(&label), "{label}: {expression}");
            }
        }
    }
}

#[test]
fn all_own_metrics_are_on_the_dashboard() {
    let shown = expressions().join("\n");
    for metric in metrics().keys().filter(|metric| metric.starts_with("instant_connect_")) {
        // The sum and count of a histogram add little to its buckets.
        let part_of_histogram = ["_sum", "_count"].iter().find_map(|part| metric.strip_suffix(part));
        let named = part_of_histogram.map_or_else(|| metric.clone(), |name| format!("{name}_bucket"));
        assert!(shown.contains(&named), "{metric}");
    }
}

#[test]
fn alerts_and_runbook_sections_match() {
    let rules = read(RULES);
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbook = read("charts/instant-connect-worker/RUNBOOK.md");
    let sections: Vec<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter(|name| name.starts_with("Instant"))
        .collect();
    assert_eq!(sections, alerts, "the runbook's sections must be in the order of the rules");
    for part in rules.split("- alert: ").skip(1) {
        let name = part.lines().next().unwrap();
        let link = format!("runbook_url: RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(part.contains(&link), "{name}: {link}");
        for needed in ["labels: {severity: ", "summary: ", "description: "] {
            assert!(part.contains(needed), "{name}: {needed}");
        }
    }
    for section in runbook.split("\n## Instant").skip(1) {
        for needed in ["**It means**", "**Look at**", "**Do**", "**Wake"] {
            assert!(section.contains(needed), "{}: {needed}", section.lines().next().unwrap());
        }
    }
}

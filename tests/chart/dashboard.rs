//! The dashboard, checked with Grafana's own types and the rules of its linter.

use super::helm::{CHART, printed, python, read, run};

fn judged(chart: &str) -> std::process::Output {
    run(python(), &["tests/python/dashboard_check.py", chart], "", "")
}

#[test]
fn dashboard_passes_grafana_types_and_linter_rules() {
    printed(&judged(CHART), "dashboard_check.py");
}

/// The check itself must detect errors.
#[test]
fn dashboard_check_reports_each_kind_of_error() {
    let dashboard = read(&format!("{CHART}/files/dashboard.json"));
    let runbook = read(&format!("{CHART}/RUNBOOK.md"));
    for (right, wrong, said) in [
        (
            "\"title\": \"Webex call duration\"",
            "\"title\": \"Webex calls\"",
            "two panels have the title Webex calls",
        ),
        ("[$__rate_interval]", "[5m]", "instead of $__rate_interval"),
        (",instance=~\\\"$instance\\\"", "", "has no instance"),
        ("job=~\\\"$job\\\"", "job=~\\\"icw\\\"", "has no job"),
        (
            "\"description\": \"Dead letters written, by class.\"",
            "\"description\": \"\"",
            "Dead letters: no description",
        ),
        ("\"editable\": false", "\"editable\": true", "the dashboard is editable"),
        ("\"displayMode\": \"table\"", "\"displayMode\": \"list\"", "is not a table"),
        ("\"legendFormat\"", "\"legendFromat\"", "is unknown to Grafana's types"),
        ("\"title\": \"In progress\"", "\"title\": \"Busy\"", "the runbook names In progress"),
    ] {
        assert!(dashboard.contains(right), "{right}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        std::fs::write(folder.path().join("files/dashboard.json"), dashboard.replace(right, wrong)).unwrap();
        std::fs::write(folder.path().join("RUNBOOK.md"), &runbook).unwrap();
        let output = judged(folder.path().to_str().unwrap());
        let problems = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && problems.contains(said), "{wrong}: {problems}");
    }
}

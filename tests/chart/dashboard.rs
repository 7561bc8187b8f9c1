//! The dashboard, judged by Grafana's own types and by the rules of its linter.

use super::helm::{CHART, printed, python, read, run};

fn judged(chart: &str) -> std::process::Output {
    run(python(), &["tests/python/dashboard_check.py", chart], "", "")
}

#[test]
fn grafana_reads_the_dashboard_and_its_linter_s_rules_hold() {
    printed(&judged(CHART), "dashboard_check.py");
}

/// The judge does refuse.
#[test]
fn dashboard_check_refuses_what_its_rules_forbid() {
    let dashboard = read(&format!("{CHART}/files/dashboard.json"));
    let runbook = read(&format!("{CHART}/RUNBOOK.md"));
    for (right, wrong, said) in [
        (
            "\"title\": \"Webex call duration\"",
            "\"title\": \"Webex calls\"",
            "two panels are called Webex calls",
        ),
        ("[$__rate_interval]", "[5m]", "in place of $__rate_interval"),
        (",instance=~\\\"$instance\\\"", "", "has no instance"),
        ("job=~\\\"$job\\\"", "job=~\\\"icw\\\"", "has no job"),
        (
            "\"description\": \"Dead letters written, by class.\"",
            "\"description\": \"\"",
            "Dead letters: no description",
        ),
        ("\"editable\": false", "\"editable\": true", "it can be edited"),
        ("\"displayMode\": \"table\"", "\"displayMode\": \"list\"", "is no table"),
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

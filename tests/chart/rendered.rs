//! The rendered objects, checked with Helm's linter and the schemas of Kubernetes and of custom resources.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::helm::{
    CHART, HELMS, NAMESPACE, case, case_yaml, cases, objects, printed, python, root, run, template,
};

#[test]
fn cases_pass_helm_lint_with_both_helms() {
    for helm in HELMS {
        for case in cases() {
            let file = format!("{CHART}/ci/{case}");
            let arguments =
                ["lint", "--strict", "--quiet", CHART, "--namespace", NAMESPACE, "--values", &file];
            let said = printed(&run(root().join("scripts/helm"), &arguments, "", helm), &case);
            assert_eq!(said.trim(), "", "{helm} {case}");
        }
    }
}

#[test]
fn both_helms_render_the_same_objects_for_each_case() {
    for name in cases() {
        assert!(*case(&name) == *objects(&case_yaml(HELMS[1], &name)), "{name}");
    }
}

#[test]
fn package_contains_the_chart_without_its_test_matrix() {
    for helm in HELMS {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().to_str().unwrap();
        printed(
            &run(root().join("scripts/helm"), &["package", CHART, "--destination", target], "", helm),
            helm,
        );
        let package = format!("{target}/instant-connect-worker-{}.tgz", env!("CARGO_PKG_VERSION"));
        let list = printed(&run("tar", &["tzf", &package], "", ""), &package);
        for file in
            ["Chart.yaml", "values.yaml", "values.schema.json", "README.md", "RUNBOOK.md"].into_iter().chain(
                ["files/alerts.yaml", "files/dashboard.json", "files/settings.json", "templates/NOTES.txt"],
            )
        {
            assert!(
                list.lines().any(|line| line == format!("instant-connect-worker/{file}")),
                "{file}: {list}"
            );
        }
        assert!(!list.contains("/ci/"), "{list}");
        // The package itself renders too.
        let least = format!("{CHART}/ci/least-values.yaml");
        let arguments = ["template", "icw", &package, "--namespace", NAMESPACE, "--values", &least];
        let packed = printed(&run(root().join("scripts/helm"), &arguments, "", helm), &package);
        assert!(*objects(&packed) == *case("least-values.yaml"));
    }
}

fn validated(yaml: &str) -> std::process::Output {
    run(python(), &["tests/python/chart_objects.py", "validate", "1.27", "1.37"], yaml, "")
}

#[test]
fn objects_are_valid_on_the_oldest_and_newest_kubernetes() {
    for case in cases() {
        printed(&validated(&case_yaml(HELMS[0], &case)), &case);
    }
}

/// The check must detect a misspelt key of a built-in and of a custom resource, and an unknown kind.
#[test]
fn validation_refuses_unknown_keys_and_unknown_kinds() {
    let yaml = ["everything-values.yaml", "gateway-values.yaml"]
        .map(|case| case_yaml(HELMS[0], case))
        .join("\n---\n");
    for (right, wrong) in [
        ("enableServiceLinks:", "enableServiceLink:"),
        ("podMetricsEndpoints:", "podMetricEndpoints:"),
        ("deletionPolicy: retain", "deletionPolicy: keep"),
        ("kind: ScaledObject", "kind: ScalingObject"),
        ("pollingInterval: 10", "pollingInterval: ten"),
        ("backendRefs:", "backendRef:"),
        ("appProtocol:", "appProtokol:"),
    ] {
        assert!(yaml.contains(right), "{right}");
        let output = validated(&yaml.replace(right, wrong));
        assert!(!output.status.success(), "{wrong}");
    }
}

#[test]
fn names_and_labels_are_valid_and_objects_are_unique() {
    let name = Regex::new(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$").unwrap();
    let label = Regex::new(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$").unwrap();
    let long =
        ["--set=fullnameOverride=a-name-of-exactly-sixty-three-characters-or-more-which-is-cut-somewhere"];
    let least = super::helm::LEAST;
    let long = super::helm::rendered(&[long[0], least[0], least[1]]);
    for objects in cases().iter().map(|name| case(name)).chain([long]) {
        let mut seen = BTreeSet::new();
        for object in objects.iter() {
            let metadata = &object["metadata"];
            let named = metadata["name"].as_str().unwrap();
            assert!(name.is_match(named) && named.len() <= 253, "{named}");
            let key = [&object["kind"], &metadata["namespace"], &metadata["name"]].map(Value::to_string);
            assert!(seen.insert(key.clone()), "duplicate object: {key:?}");
            for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
                assert!(label.is_match(value.as_str().unwrap()), "{named}: {key}: {value}");
            }
        }
    }
}

#[test]
fn notes_show_derived_values_and_warnings() {
    let notes = |arguments: &[&str]| {
        let mut all = vec!["install", "icw", CHART, "--namespace", NAMESPACE, "--dry-run=client"];
        all.extend_from_slice(arguments);
        let said = printed(&run(root().join("scripts/helm"), &all, "", HELMS[0]), "install --dry-run");
        said.split_once("NOTES:").map(|(_, notes)| notes.to_owned()).unwrap()
    };
    let all = |case: &str| notes(&["--values", &format!("{CHART}/ci/{case}")]);
    let least = all("least-values.yaml");
    for words in ["Recreate", "35", "helm test", "deploy/icw-instant-connect-worker", "rollout waits"] {
        assert!(least.contains(words), "{words}: {least}");
    }
    assert!(!least.contains("Warnings"), "{least}");
    let careful = all("values-values.yaml");
    for words in ["allow_insecure", "memory", "continue", "amqp.url", "webex.token"] {
        assert!(careful.contains(words), "{words}: {careful}");
    }
    assert!(!careful.contains("a-token") && !careful.contains("guest:guest"), "{careful}");
    let production = all("production-values.yaml");
    assert!(production.contains("*@example.rooms.webex.com"), "{production}");
    let shared = notes(&[
        "--set=amqp.existingSecret=a,webex.existingSecret=b",
        "--set-json=persistence.accessModes=[\"ReadWriteMany\"]",
    ]);
    assert!(shared.contains("ReadWriteMany"), "{shared}");
    let flows = all("ingress-values.yaml");
    for words in [
        "2, at icw-instant-connect-worker-ingress.video:8443 (https)",
        "in Redis",
        "trial.token",
        "https://flows.example.org/v1/sessions",
    ] {
        assert!(flows.contains(words), "{words}: {flows}");
    }
    assert!(!flows.contains("icw_a-token"), "{flows}");
    let gateway = all("gateway-values.yaml");
    for words in [":80 (http)", "until a rollout or restart", "allow_insecure", "trusted_proxies is empty"] {
        assert!(gateway.contains(words), "{words}: {gateway}");
    }
    let scaled = all("autoscaling-values.yaml");
    assert!(scaled.contains("outage") && scaled.contains("2 to 6") && scaled.contains("per 16"), "{scaled}");
}

/// Renders with only the required values.
#[test]
fn two_values_give_one_worker_with_its_own_volume() {
    let objects = objects(&printed(&template(HELMS[1], &super::helm::LEAST), "least"));
    let kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert!(!kinds.contains(&"Secret") && !kinds.contains(&"Service"), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "PersistentVolumeClaim").count(), 1);
    let spec = &super::helm::only(&objects, "Deployment")["spec"];
    assert_eq!(spec["strategy"]["type"], "Recreate");
    assert!(spec["strategy"].as_object().unwrap().contains_key("rollingUpdate"), "null, written out");
    assert_eq!(spec["template"]["spec"]["terminationGracePeriodSeconds"], 35);
}

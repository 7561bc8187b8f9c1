//! Workflows, Dependabot's settings, the Dockerfile and what the cluster's test applies, judged by others.

use regex::Regex;

use super::helm::{objects, printed, python, read, root, run};

const WORKFLOWS: [&str; 2] = [".github/workflows/ci.yml", ".github/workflows/release.yml"];

/// A program of `scripts/python-env`.
fn tool(name: &str) -> std::path::PathBuf {
    python().with_file_name(name)
}

fn schema(name: &str, files: &[&str]) -> std::process::Output {
    let arguments = [&["-m", "check_jsonschema", "--builtin-schema", name], files].concat();
    run(python(), &arguments, "", "")
}

#[test]
fn workflows_and_dependabot_s_settings_are_valid() {
    printed(&schema("vendor.github-workflows", &WORKFLOWS), "workflows");
    printed(&schema("custom.github-workflows-require-timeout", &WORKFLOWS), "a time limit for each job");
    printed(&schema("vendor.dependabot", &[".github/dependabot.yml"]), "Dependabot");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("ci.yml");
    std::fs::write(&wrong, read(WORKFLOWS[0]).replace("runs-on:", "run-on:")).unwrap();
    assert!(!schema("vendor.github-workflows", &[wrong.to_str().unwrap()]).status.success());
}

#[test]
fn zizmor_finds_nothing_in_the_workflows() {
    printed(&run(tool("zizmor"), &["--offline", "--quiet", ".github"], "", ""), "zizmor");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("ci.yml");
    let commit = Regex::new("checkout@[0-9a-f]{40}").unwrap();
    std::fs::write(&wrong, commit.replace(&read(WORKFLOWS[0]), "checkout@v7").as_bytes()).unwrap();
    let output = run(tool("zizmor"), &["--offline", "--quiet", wrong.to_str().unwrap()], "", "");
    assert!(!output.status.success(), "{output:?}");
}

/// No secret is in a pull request's run, and no right beyond reading.
#[test]
fn workflow_of_pull_requests_only_reads() {
    let text = read(WORKFLOWS[0]);
    assert!(!text.contains("secrets.") && !text.contains("pull_request_target"));
    let workflow = &objects(&text)[0];
    assert_eq!(workflow["permissions"], serde_json::json!({}));
    for (name, job) in workflow["jobs"].as_object().unwrap() {
        assert_eq!(job["permissions"], serde_json::json!({"contents": "read"}), "{name}");
    }
}

#[test]
fn every_action_is_named_by_commit_with_its_version_beside_it() {
    let pinned = Regex::new(r"^uses: [a-z0-9-]+/[a-z0-9-]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$").unwrap();
    for workflow in WORKFLOWS {
        let text = read(workflow);
        let uses: Vec<_> = text
            .lines()
            .map(|line| line.trim().trim_start_matches("- "))
            .filter(|line| line.starts_with("uses:"))
            .collect();
        assert!(uses.len() >= 4, "{workflow}: {uses:?}");
        for line in uses {
            assert!(pinned.is_match(line), "{workflow}: {line}");
        }
    }
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    printed(&run(tool("hadolint"), &["Dockerfile"], "", ""), "hadolint");
}

#[test]
fn objects_beside_the_worker_in_the_cluster_s_test_are_valid() {
    let yaml = read("tests/cluster/backing.yaml").replace("\nmetadata: {", "\nmetadata: {namespace: test, ");
    let validate = ["tests/python/chart_objects.py", "validate", "1.27", "1.37"];
    printed(&run(python(), &validate, &yaml, ""), "backing.yaml");
    let values = root().join("tests/cluster/values.yaml");
    let rendered = super::helm::template(super::helm::HELMS[0], &["--values", values.to_str().unwrap()]);
    printed(&run(python(), &validate, &printed(&rendered, "values.yaml"), ""), "the chart with values.yaml");
}

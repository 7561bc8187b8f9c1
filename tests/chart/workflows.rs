//! Workflows, Dependabot's settings, the Dockerfile and the objects of the cluster test, checked with third-party
//! tools.

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
fn workflows_and_dependabot_settings_are_valid() {
    printed(&schema("vendor.github-workflows", &WORKFLOWS), "workflows");
    printed(&schema("custom.github-workflows-require-timeout", &WORKFLOWS), "a time limit for each job");
    printed(&schema("vendor.dependabot", &[".github/dependabot.yml"]), "Dependabot");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("ci.yml");
    std::fs::write(&wrong, read(WORKFLOWS[0]).replace("runs-on:", "run-on:")).unwrap();
    assert!(!schema("vendor.github-workflows", &[wrong.to_str().unwrap()]).status.success());
}

#[test]
fn workflows_pass_zizmor() {
    printed(&run(tool("zizmor"), &["--offline", "--quiet", ".github"], "", ""), "zizmor");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("ci.yml");
    let commit = Regex::new("checkout@[0-9a-f]{40}").unwrap();
    std::fs::write(&wrong, commit.replace(&read(WORKFLOWS[0]), "checkout@v7").as_bytes()).unwrap();
    let output = run(tool("zizmor"), &["--offline", "--quiet", wrong.to_str().unwrap()], "", "");
    assert!(!output.status.success(), "{output:?}");
}

/// A pull request's run has no secrets and only read permissions.
#[test]
fn pull_request_workflow_has_read_permissions_only() {
    let text = read(WORKFLOWS[0]);
    assert!(!text.contains("secrets.") && !text.contains("pull_request_target"));
    let workflow = &objects(&text)[0];
    assert_eq!(workflow["permissions"], serde_json::json!({}));
    for (name, job) in workflow["jobs"].as_object().unwrap() {
        assert_eq!(job["permissions"], serde_json::json!({"contents": "read"}), "{name}");
    }
}

#[test]
fn actions_are_pinned_by_commit_with_their_version() {
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
fn dockerfile_passes_hadolint() {
    printed(&run(tool("hadolint"), &["Dockerfile"], "", ""), "hadolint");
}

#[test]
fn backing_objects_of_the_cluster_test_are_valid() {
    let yaml = read("tests/cluster/backing.yaml").replace("\nmetadata: {", "\nmetadata: {namespace: test, ");
    let validate = ["tests/python/chart_objects.py", "validate", "1.27", "1.37"];
    printed(&run(python(), &validate, &yaml, ""), "backing.yaml");
    let values = root().join("tests/cluster/values.yaml");
    let rendered = super::helm::template(super::helm::HELMS[0], &["--values", values.to_str().unwrap()]);
    printed(&run(python(), &validate, &printed(&rendered, "values.yaml"), ""), "the chart with values.yaml");
}

//! The operators' view, tested with a real broker, the program as a process, and the sandbox.

mod alerts;
mod check;
mod compose;
mod health;
mod image;
mod metrics;
mod pod;
mod reach;
mod rules;
mod silence;

use serde_json::Value;

const RULES: &str = "charts/instant-connect-worker/files/alerts.yaml";
const DASHBOARD: &str = "charts/instant-connect-worker/files/dashboard.json";

/// Reads a file of the repository.
fn read(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All expressions of the dashboard.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    // A collapsed row contains its panels.
    let all = dashboard["panels"].as_array().unwrap().iter();
    let panels = all.flat_map(|panel| panel["panels"].as_array().into_iter().flatten().chain([panel]));
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 30, "{expressions:?}");
    expressions
}

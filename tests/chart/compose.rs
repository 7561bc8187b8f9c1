//! compose.yaml and the files in `compose/`: locked down, started in order, and equal to the chart where both define
//! something. `operators::compose` runs the services.

use regex::Regex;
use serde_json::{Value, json};

use super::helm::{CHART, objects, printed, python, read, root, run};

fn compose() -> Value {
    objects(&read("compose.yaml"))[0].clone()
}

fn services(compose: &Value) -> impl Iterator<Item = (&String, &Value)> {
    compose["services"].as_object().unwrap().iter()
}

#[test]
fn compose_file_is_valid() {
    let check = |file: &str| {
        let arguments = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file];
        run(python(), &arguments, "", "")
    };
    printed(&check("compose.yaml"), "compose.yaml");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("compose.yaml");
    std::fs::write(&wrong, read("compose.yaml").replace("read_only:", "readonly:")).unwrap();
    assert!(!check(wrong.to_str().unwrap()).status.success());
}

#[test]
fn services_are_locked_down_and_reachable_from_loopback_only() {
    let compose = compose();
    for (name, service) in services(&compose) {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        for key in ["privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"] {
            assert!(service[key].is_null(), "{name}: {key}");
        }
        assert_ne!(service["user"], "root", "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap();
            let (source, rest) = volume.split_once(':').unwrap();
            if source.starts_with('.') {
                assert!(rest.ends_with(":ro"), "{name}: {volume}");
                assert!(root().join(source).exists(), "{name}: {volume}");
            } else {
                assert!(compose["volumes"].as_object().unwrap().contains_key(source), "{name}: {volume}");
            }
        }
    }
}

#[test]
fn long_running_services_have_health_checks_that_others_wait_for() {
    let compose = compose();
    for (name, service) in services(&compose) {
        if service["profiles"].is_null() {
            assert!(service["healthcheck"]["test"].is_array(), "{name}");
        } else {
            assert_eq!(service["healthcheck"], json!({"disable": true}), "{name}");
        }
        for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
            assert_eq!(how["condition"], "service_healthy", "{name}: {other}");
        }
    }
}

/// The image of the program.
const OURS: &str = "instant-connect-worker:compose";

/// The program's image is built from this checkout, and of the services of `up` only one builds it: two builds of one name at the same time
/// fail with Docker's containerd store. All other images have a full version.
#[test]
fn third_party_images_have_a_full_version() {
    let version = Regex::new(r"^[a-z0-9./-]+:v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z-]+)?$").unwrap();
    for (name, service) in services(&compose()) {
        let image = service["image"].as_str().unwrap();
        if image != OURS {
            assert!(version.is_match(image) && service["build"].is_null(), "{name}: {image}");
        } else if ["sandbox", "demo"].contains(&name.as_str()) {
            assert_eq!(service["build"], json!({"context": ".", "args": {"FEATURES": "sandbox"}}), "{name}");
        } else {
            assert!(service["build"].is_null() && service["pull_policy"] == "never", "{name}");
        }
    }
}

/// Prometheus loads the chart's rules and sets each target's namespace, by which rules and dashboard separate
/// installations.
#[test]
fn prometheus_configuration_and_grafana_data_source_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let rules = root().join(CHART).join("files/alerts.yaml");
    let configuration = read("compose/prometheus.yml");
    let file = folder.path().join("prometheus.yml");
    let here = configuration.replace("/etc/prometheus/alerts.yaml", rules.to_str().unwrap());
    assert_ne!(here, configuration);
    std::fs::write(&file, here).unwrap();
    let said = run("promtool", &["check", "config", "--lint-fatal", file.to_str().unwrap()], "", "");
    assert!(printed(&said, "promtool").contains("rules found"));
    let configuration = &objects(&configuration)[0];
    let jobs = configuration["scrape_configs"].as_array().unwrap();
    assert!(jobs.iter().any(|job| job["static_configs"][0]["targets"] == json!(["worker:9464"])));
    for job in jobs {
        assert_eq!(job["static_configs"][0]["labels"]["namespace"], "compose", "{job}");
    }
    let sources = objects(&read("compose/grafana/datasources/prometheus.yaml"))[0]["datasources"].clone();
    assert_eq!(sources.as_array().unwrap().len(), 1);
    assert_eq!((&sources[0]["type"], &sources[0]["isDefault"]), (&json!("prometheus"), &json!(true)));
    let folder = objects(&read("compose/grafana/dashboards/instant-connect-worker.yaml"))[0]["providers"][0]
        ["options"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    let volumes = compose()["services"]["grafana"]["volumes"].clone();
    let dashboard = format!("./{CHART}/files/dashboard.json:{folder}/instant-connect-worker.json:ro");
    assert!(volumes.as_array().unwrap().contains(&json!(dashboard)), "{volumes}");
}

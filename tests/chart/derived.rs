//! Values that the chart derives from the program's settings.

use serde_json::{Value, json};

use super::helm::{LEAST, case, cases, containers, of_kind, only, pods, rendered};

const REDIS: &str = "--set=config.ledger.kind=redis,redis.existingSecret=r";

fn deployment(arguments: &[&str]) -> Value {
    let arguments: Vec<_> = LEAST.into_iter().chain(arguments.iter().copied()).collect();
    only(&rendered(&arguments), "Deployment")["spec"].clone()
}

#[test]
fn rollout_uses_rolling_update_only_if_the_ledger_is_shared() {
    let recreate = json!({"type": "Recreate", "rollingUpdate": null});
    assert_eq!(deployment(&[])["strategy"], recreate);
    assert_eq!(deployment(&["--set=config.ledger.kind=memory"])["strategy"], recreate);
    assert_eq!(
        deployment(&[REDIS, "--set=strategy.type=Recreate"])["strategy"],
        recreate,
        "a later change must not fail"
    );
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    assert_eq!(deployment(&[REDIS])["strategy"], rolling);
}

#[test]
fn termination_grace_is_the_programs_grace_plus_ten_seconds() {
    for (grace, seconds) in
        [("25s", 35), ("1m", 70), ("1m30s", 100), ("1m 30s", 100), ("500ms", 11), ("1h", 3610), ("008s", 18)]
    {
        let spec = deployment(&[&format!("--set=config.shutdown.grace={grace}")]);
        assert_eq!(spec["template"]["spec"]["terminationGracePeriodSeconds"], seconds, "{grace}");
    }
    let longer = deployment(&["--set=terminationGracePeriodSeconds=90"]);
    assert_eq!(longer["template"]["spec"]["terminationGracePeriodSeconds"], 90);
}

#[test]
fn volume_exists_only_for_a_file_ledger_and_is_kept() {
    for (name, claims) in [
        ("least-values.yaml", 1),
        ("production-values.yaml", 0),
        ("values-values.yaml", 0),
        ("openshift-values.yaml", 0),
    ] {
        let objects = case(name);
        let found = of_kind(&objects, "PersistentVolumeClaim");
        assert_eq!(found.len(), claims, "{name}");
        for claim in found {
            assert_eq!(claim["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        }
    }
    let objects = case("openshift-values.yaml");
    let volumes = &only(&objects, "Deployment")["spec"]["template"]["spec"]["volumes"];
    let ledger = volumes.as_array().unwrap().iter().find(|volume| volume["name"] == "ledger").unwrap();
    assert_eq!(ledger["persistentVolumeClaim"]["claimName"], "icw-ledger");
    // An uninstall keeps the claim, regardless of the values.
    let kept = rendered(&[
        LEAST[0],
        LEAST[1],
        "--set-json=persistence.annotations={\"helm.sh/resource-policy\":\"delete\"}",
    ]);
    assert_eq!(
        only(&kept, "PersistentVolumeClaim")["metadata"]["annotations"]["helm.sh/resource-policy"],
        "keep"
    );
}

#[test]
fn storage_class_is_omitted_empty_or_named_as_given() {
    let class = |argument: &str| {
        let objects = rendered(&[LEAST[0], LEAST[1], argument]);
        only(&objects, "PersistentVolumeClaim")["spec"].as_object().unwrap().get("storageClassName").cloned()
    };
    assert_eq!(class("--set=replicas=1"), None);
    assert_eq!(class("--set=persistence.storageClass="), Some(json!("")));
    assert_eq!(class("--set=persistence.storageClass=fast"), Some(json!("fast")));
}

#[test]
fn disruption_budget_and_spread_exist_from_two_workers_on() {
    let one = case("least-values.yaml");
    assert!(of_kind(&one, "PodDisruptionBudget").is_empty());
    assert!(only(&one, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"].is_null());
    for name in ["production-values.yaml", "autoscaling-values.yaml"] {
        let objects = case(name);
        let budget = &only(&objects, "PodDisruptionBudget")["spec"];
        assert_eq!(budget["maxUnavailable"], 1);
        assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        let spec = &only(&objects, "Deployment")["spec"];
        let spread = spec["template"]["spec"]["topologySpreadConstraints"].as_array().unwrap();
        let keys: Vec<_> =
            spread.iter().map(|constraint| constraint["topologyKey"].as_str().unwrap()).collect();
        assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], "{name}");
        for constraint in spread {
            assert_eq!(constraint["whenUnsatisfiable"], "ScheduleAnyway");
            assert_eq!(constraint["labelSelector"]["matchLabels"], spec["selector"]["matchLabels"]);
        }
    }
    let objects = case("everything-values.yaml");
    let given = &only(&objects, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"];
    assert_eq!(given[0]["topologyKey"], "rack", "{given}");
}

#[test]
fn autoscaling_replaces_replicas_and_scales_by_the_work_queues() {
    assert_eq!(only(&case("production-values.yaml"), "Deployment")["spec"]["replicas"], 3);
    for (name, queues, value) in [
        ("autoscaling-values.yaml", vec!["instant-connect.sessions"], "16"),
        ("everything-values.yaml", vec!["instant-connect.sessions", "instant-connect.hosts"], "50"),
        (
            "guests-values.yaml",
            vec![
                "instant-connect.sessions",
                "instant-connect.hosts",
                "instant-connect.guests.sms",
                "instant-connect.guests.whatsapp",
            ],
            "32",
        ),
    ] {
        let objects = case(name);
        assert!(only(&objects, "Deployment")["spec"]["replicas"].is_null(), "{name}");
        let scaled = &only(&objects, "ScaledObject")["spec"];
        assert_eq!(scaled["scaleTargetRef"]["name"], only(&objects, "Deployment")["metadata"]["name"]);
        let triggers = scaled["triggers"].as_array().unwrap();
        let names: Vec<_> =
            triggers.iter().map(|trigger| trigger["metadata"]["queueName"].as_str().unwrap()).collect();
        assert_eq!(names, queues, "{name}");
        let authentication = only(&objects, "TriggerAuthentication");
        for trigger in triggers {
            assert_eq!(trigger["metadata"]["protocol"], "http");
            assert_eq!(trigger["metadata"]["mode"], "QueueLength");
            assert_eq!(trigger["metadata"]["value"], value, "{name}");
            assert!(
                trigger["metadata"].as_object().unwrap().values().all(Value::is_string),
                "KEDA takes strings alone"
            );
            assert_eq!(trigger["authenticationRef"]["name"], authentication["metadata"]["name"]);
        }
        assert_eq!(authentication["spec"]["secretTargetRef"][0]["name"], "icw-management");
    }
}

#[test]
fn admin_address_and_settings_file_are_set_by_variables() {
    for name in cases() {
        let objects = case(&name);
        for pod in pods(&objects) {
            let own = containers(pod)
                .find(|container| ["worker", "ingress", "check"].iter().any(|own| container["name"] == *own))
                .unwrap();
            let variable = |wanted: &str| {
                let env = own["env"].as_array().unwrap();
                env.iter()
                    .find(|variable| variable["name"] == wanted)
                    .map(|variable| variable["value"].as_str().unwrap().to_owned())
            };
            let listen = if name.starts_with("openshift") { "[::]:8080" } else { "0.0.0.0:9464" };
            assert_eq!(variable("ICW_ADMIN__LISTEN").unwrap(), listen, "{name}");
            assert_eq!(
                variable("ICW_CONFIG").unwrap(),
                "/etc/instant-connect-worker/settings/settings.toml",
                "{name}"
            );
            let file_ledger =
                !of_kind(&objects, "PersistentVolumeClaim").is_empty() || name.starts_with("openshift");
            let skips = own["args"].as_array().is_some_and(|args| args.contains(&json!("--without-ledger")));
            assert_eq!(skips, own["name"] == "check" && file_ledger, "{name}: the worker has its file open");
        }
    }
}

#[test]
fn image_is_named_by_registry_version_and_digest() {
    let image = |arguments: &[&str]| {
        deployment(arguments)["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image(&[]), format!("instant-connect-worker:{version}"));
    assert_eq!(
        image(&["--set=image.registry=r.example/,image.tag=1.2"]),
        "r.example/instant-connect-worker:1.2"
    );
    let production = only(&case("production-values.yaml"), "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let expected = format!("registry.example:5000/video/instant-connect-worker:{version}@sha256:");
    assert!(production.as_str().unwrap().starts_with(&expected), "{production}");
}

#[test]
fn changed_settings_restart_pods_and_equal_ones_do_not() {
    let checksum = |arguments: &[&str]| {
        deployment(arguments)["template"]["metadata"]["annotations"]["checksum/settings"].clone()
    };
    assert_ne!(checksum(&[]), checksum(&["--set=config.amqp.prefetch=64"]));
    assert_eq!(checksum(&[]), checksum(&["--set=resources.limits.memory=1Gi"]));
}

//! Kubernetes' restricted profile on every pod of the matrix, and the selectors that distinguish pods.

use serde_json::{Value, json};

use super::helm::{LEAST, Objects, case, cases, containers, of_kind, only, pods, rendered};

/// The matrix, and values that try to weaken the profile without the schema.
fn matrix() -> Vec<(String, Objects)> {
    let loose = rendered(&[
        LEAST[0],
        LEAST[1],
        "--skip-schema-validation",
        "--set=podSecurityContext.runAsNonRoot=false,podSecurityContext.seccompProfile.type=Unconfined",
        "--set=securityContext.privileged=true,securityContext.allowPrivilegeEscalation=true",
        "--set=securityContext.readOnlyRootFilesystem=false,securityContext.capabilities.drop={}",
    ]);
    let mut matrix: Vec<_> = cases().into_iter().map(|name| (name.clone(), case(&name))).collect();
    matrix.push(("loosened".into(), loose));
    matrix
}

#[test]
fn pods_comply_with_the_restricted_profile() {
    for (name, objects) in matrix() {
        for pod in pods(&objects) {
            let spec = &pod["spec"];
            for host in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
                assert!(spec[host].is_null(), "{name}: {host}");
            }
            assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
            assert_eq!(spec["enableServiceLinks"], false, "{name}");
            let context = &spec["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{name}");
            assert_eq!(context["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
            assert_eq!(context["fsGroupChangePolicy"], "Always", "{name}");
            for volume in spec["volumes"].as_array().unwrap() {
                let kinds = ["name", "configMap", "secret", "persistentVolumeClaim", "emptyDir"];
                assert!(
                    volume.as_object().unwrap().keys().all(|key| kinds.contains(&key.as_str())),
                    "{name}: {volume}"
                );
            }
            for container in containers(pod) {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(context["privileged"], false, "{name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(context["runAsNonRoot"], true, "{name}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
                assert_eq!(context["seccompProfile"], json!({"type": "RuntimeDefault"}), "{name}");
                assert!(context["runAsUser"] != 0, "{name}");
                let ports = container["ports"].as_array().into_iter().flatten();
                assert!(ports.into_iter().all(|port| port["hostPort"].is_null()), "{name}");
            }
        }
    }
}

#[test]
fn user_and_groups_come_from_the_image_or_from_openshift() {
    for (name, objects) in matrix() {
        for pod in pods(&objects) {
            let context = &pod["spec"]["securityContext"];
            let expected = match name.as_str() {
                "openshift-values.yaml" => [Value::Null, Value::Null, Value::Null],
                "everything-values.yaml" => [json!(1234), json!(65532), json!(65532)],
                _ => [json!(65532), json!(65532), json!(65532)],
            };
            for (key, expected) in ["runAsUser", "runAsGroup", "fsGroup"].into_iter().zip(expected) {
                assert_eq!(context[key], expected, "{name}: {key}");
            }
        }
    }
}

#[test]
fn secrets_are_required_folders_that_rotate() {
    for (name, objects) in matrix() {
        for pod in pods(&objects) {
            let volumes = pod["spec"]["volumes"].as_array().unwrap();
            let mut secrets = 0;
            for volume in volumes {
                for kind in ["secret", "configMap"] {
                    if volume[kind].is_object() {
                        assert_eq!(volume[kind]["defaultMode"], 0o440, "{name}: {volume}");
                    }
                }
                if volume["secret"].is_object() {
                    secrets += 1;
                    assert_eq!(volume["secret"]["optional"], false, "{name}: {volume}");
                }
            }
            assert!(secrets >= 2, "{name}");
            for container in containers(pod) {
                let env = container["env"].as_array().into_iter().flatten();
                assert!(
                    env.into_iter().all(|variable| variable["valueFrom"]["secretKeyRef"].is_null()),
                    "{name}"
                );
                let mounts = container["volumeMounts"].as_array().into_iter().flatten();
                assert!(mounts.into_iter().all(|mount| mount["subPath"].is_null()), "{name}");
            }
        }
        let annotations = only(&objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
            .as_object()
            .unwrap()
            .clone();
        let checksums: Vec<_> = annotations.keys().filter(|key| key.starts_with("checksum/")).collect();
        assert_eq!(checksums, ["checksum/settings"], "{name}: a rotated secret must not restart the pod");
    }
}

#[test]
fn secret_values_appear_only_in_their_secret() {
    let objects = case("values-values.yaml");
    assert_eq!(of_kind(&objects, "Secret").len(), 3);
    for object in objects.iter().filter(|object| object["kind"] != "Secret") {
        let text = object.to_string();
        assert!(
            !text.contains("a-token") && !text.contains("another-token") && !text.contains("guest:guest"),
            "{text}"
        );
    }
    for object in case("least-values.yaml").iter() {
        assert_ne!(object["kind"], "Secret");
    }
}

#[test]
fn selector_is_constant_and_matches_only_workers() {
    let expected = json!({"app.kubernetes.io/name": "instant-connect-worker", "app.kubernetes.io/instance": "icw",
        "app.kubernetes.io/component": "worker"});
    for (name, objects) in matrix() {
        let deployment = only(&objects, "Deployment");
        let mut selectors = vec![&deployment["spec"]["selector"]["matchLabels"]];
        for kind in ["PodDisruptionBudget", "PodMonitor"] {
            selectors.extend(
                of_kind(&objects, kind).iter().map(|object| &object["spec"]["selector"]["matchLabels"]),
            );
        }
        assert!(selectors.iter().all(|selector| **selector == expected), "{name}: {selectors:?}");
        let selects = |selector: &Value, pod: &Value| {
            selector.as_object().unwrap().iter().all(|(key, value)| pod["metadata"]["labels"][key] == *value)
        };
        let [worker, test] = pods(&objects)[..] else { panic!("{name}") };
        assert!(selects(&expected, worker), "{name}");
        assert!(!selects(&expected, test), "{name}: the selector matches the test's pod");
        for policy in of_kind(&objects, "NetworkPolicy") {
            let selector = &policy["spec"]["podSelector"]["matchLabels"];
            assert!(selects(selector, worker) && selects(selector, test), "{name}");
        }
    }
}

#[test]
fn network_policy_allows_only_the_configured_connections() {
    let policy = |name: &str| only(&case(name), "NetworkPolicy")["spec"].clone();
    let ports = |spec: &Value| {
        let mut ports: Vec<i64> = Vec::new();
        for rule in spec["egress"].as_array().unwrap() {
            ports.extend(rule["ports"].as_array().unwrap().iter().map(|port| port["port"].as_i64().unwrap()));
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let least = policy("least-values.yaml");
    assert_eq!(least["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(ports(&least), [53, 443, 5353, 5671, 5672]);
    assert_eq!(least["ingress"][0]["ports"], json!([{"protocol": "TCP", "port": 9464}]));
    let https =
        least["egress"].as_array().unwrap().iter().find(|rule| rule["ports"][0]["port"] == 443).unwrap();
    assert_eq!(https["to"][0]["ipBlock"], json!({"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}));
    assert_eq!(https["to"][1]["ipBlock"], json!({"cidr": "::/0", "except": ["fe80::/10"]}));
    assert_eq!(ports(&policy("production-values.yaml")), [53, 443, 4318, 5353, 5671, 5672, 6379, 6380]);
    assert_eq!(ports(&policy("network-values.yaml")), [53, 443, 3128, 5353, 5671, 8443]);
    let without_scheme = r#"--set-json=extraEnv=[{"name":"https_proxy","value":"proxy.example:3128"}]"#;
    let proxied = rendered(&[LEAST[0], LEAST[1], without_scheme]);
    assert_eq!(ports(&only(&proxied, "NetworkPolicy")["spec"]), [53, 443, 3128, 5353, 5671, 5672]);
    let closed = policy("openshift-values.yaml");
    assert_eq!(closed["ingress"], json!([]), "no client may read the metrics");
    assert!(of_kind(&case("values-values.yaml"), "NetworkPolicy").is_empty());
}

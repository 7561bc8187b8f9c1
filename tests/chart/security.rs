//! Kubernetes' restricted profile on every pod of the matrix, and the selectors that distinguish pods.

use serde_json::{Value, json};

use super::helm::{LEAST, Objects, case, cases, containers, of_kind, only, only_of, pods, rendered};

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
                let kinds = ["name", "configMap", "secret", "projected", "persistentVolumeClaim", "emptyDir"];
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
                for kind in ["secret", "configMap", "projected"] {
                    if volume[kind].is_object() {
                        assert_eq!(volume[kind]["defaultMode"], 0o440, "{name}: {volume}");
                    }
                }
                if volume["secret"].is_object() {
                    secrets += 1;
                    assert_eq!(volume["secret"]["optional"], false, "{name}: {volume}");
                }
                for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
                    secrets += 1;
                    assert_eq!(source["secret"]["optional"], false, "{name}: {volume}");
                    assert_eq!(source.as_object().unwrap().len(), 1, "{name}: {volume}");
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
        for deployment in of_kind(&objects, "Deployment") {
            let annotations = deployment["spec"]["template"]["metadata"]["annotations"].as_object().unwrap();
            let checksums: Vec<_> = annotations.keys().filter(|key| key.starts_with("checksum/")).collect();
            assert_eq!(checksums, ["checksum/settings"], "{name}: a rotated secret must not restart the pod");
        }
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
    for object in case("ingress-values.yaml").iter().filter(|object| object["kind"] != "Secret") {
        assert!(!object.to_string().contains("icw_a-token"), "{object}");
    }
    for object in case("least-values.yaml").iter() {
        assert_ne!(object["kind"], "Secret");
    }
}

/// The components of the pods that a selector matches.
fn selected<'a>(objects: &'a Objects, selector: &Value) -> Vec<&'a str> {
    let matches = |pod: &Value| {
        let labels = &pod["metadata"]["labels"];
        let mut pairs = selector["matchLabels"].as_object().unwrap().iter();
        let mut expressions = selector["matchExpressions"].as_array().into_iter().flatten();
        pairs.all(|(key, value)| labels[key] == *value)
            && expressions.all(|expression| {
                let listed = expression["values"]
                    .as_array()
                    .unwrap()
                    .contains(&labels[expression["key"].as_str().unwrap()]);
                listed == (expression["operator"] == "In")
            })
    };
    let pods = pods(objects).into_iter().filter(|pod| matches(pod));
    pods.map(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap()).collect()
}

#[test]
fn selectors_are_constant_and_match_their_own_pods_only() {
    for (name, objects) in matrix() {
        for deployment in of_kind(&objects, "Deployment") {
            let component = deployment["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap();
            let selector = json!({"matchLabels": {"app.kubernetes.io/name": "instant-connect-worker",
                "app.kubernetes.io/instance": "icw", "app.kubernetes.io/component": component}});
            assert_eq!(deployment["spec"]["selector"], selector, "{name}");
            assert_eq!(selected(&objects, &selector), [component], "{name}");
            for budget in of_kind(&objects, "PodDisruptionBudget") {
                let own = budget["metadata"]["labels"] == deployment["metadata"]["labels"];
                assert_eq!(own, budget["spec"]["selector"] == selector, "{name}");
            }
        }
        let with_ingress = pods(&objects).len() == 3;
        for monitor in of_kind(&objects, "PodMonitor") {
            let expected: &[&str] = if with_ingress { &["worker", "ingress"] } else { &["worker"] };
            assert_eq!(selected(&objects, &monitor["spec"]["selector"]), expected, "{name}");
        }
        let policies: Vec<_> = of_kind(&objects, "NetworkPolicy")
            .iter()
            .map(|policy| selected(&objects, &policy["spec"]["podSelector"]))
            .collect();
        match (&policies[..], with_ingress) {
            ([], _) => assert_eq!(name, "values-values.yaml"),
            ([only], false) => assert_eq!(only, &["worker", "test"], "{name}"),
            (both, _) => assert_eq!(both, [vec!["worker", "test"], vec!["ingress"]], "{name}"),
        }
    }
}

/// The ingress faces the network, so it has no token for Webex and no way there.
#[test]
fn ingress_has_no_bot_token_and_no_connection_to_webex() {
    for name in ["ingress-values.yaml", "gateway-values.yaml"] {
        let objects = case(name);
        let pod = &only_of(&objects, "Deployment", "ingress")["spec"]["template"]["spec"];
        let volumes: Vec<_> =
            pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
        let expected = if name.starts_with("ingress") {
            json!(["settings", "amqp", "redis", "clients", "ingress-tls", "ingress-client-ca"])
        } else {
            json!(["settings", "amqp", "clients"])
        };
        assert_eq!(json!(volumes), expected, "{name}");
        let policy = &only_of(&objects, "NetworkPolicy", "ingress")["spec"];
        let egress = policy["egress"].to_string();
        assert!(
            egress.contains("5671") && !egress.contains("443") && !egress.contains("ipBlock"),
            "{egress}"
        );
        assert_eq!(egress.contains("6379"), name.starts_with("ingress"), "{egress}");
        let worker = objects.iter().find(|object| {
            object["kind"] == "NetworkPolicy" && **object != *only_of(&objects, "NetworkPolicy", "ingress")
        });
        assert!(worker.unwrap()["spec"]["egress"].to_string().contains("443"));
        assert_eq!(policy["ingress"][0]["ports"], json!([{"protocol": "TCP", "port": 8080}]));
        assert_eq!(policy["ingress"][0]["from"].is_null(), name.starts_with("gateway"), "{name}");
        assert_eq!(policy["ingress"][1]["ports"], json!([{"protocol": "TCP", "port": 9464}]));
        let worker = &only_of(&objects, "Deployment", "worker").to_string();
        assert!(!worker.contains("clients") && !worker.contains("ingress-tls"), "{worker}");
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

//! The HTTP ingress in Kubernetes: its Deployment, and the ways to it.

use serde_json::{Value, json};

use super::helm::{LEAST, Objects, case, of_kind, only, only_of, rendered};

const INGRESS: &str =
    "--set=ingress.enabled=true,ingress.clients.a.existingSecret=s,ingress.tls.existingSecret=t";

fn with(arguments: &[&str]) -> Objects {
    let arguments: Vec<_> =
        [LEAST[0], LEAST[1], INGRESS].into_iter().chain(arguments.iter().copied()).collect();
    rendered(&arguments)
}

fn container(objects: &Objects, component: &str) -> Value {
    only_of(objects, "Deployment", component)["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn worker_runs_everything_without_the_ingress_and_the_stages_with_it() {
    let alone = case("least-values.yaml");
    assert_eq!(container(&alone, "worker")["args"], json!(["run"]));
    for kind in ["Service", "Ingress", "HTTPRoute"] {
        assert!(of_kind(&alone, kind).is_empty(), "{kind}");
    }
    let both = with(&[]);
    assert_eq!(container(&both, "worker")["args"], json!(["run", "--role", "stages"]));
    assert_eq!(container(&both, "ingress")["args"], json!(["run", "--role", "ingress"]));
}

/// The worker must know that receipts are on, because it waits for them; it needs no secret for that.
#[test]
fn receipts_are_on_in_worker_and_ingress_and_only_the_ingress_has_the_secret() {
    let objects = case("receipts-values.yaml");
    for (component, mounted) in [("worker", false), ("ingress", true)] {
        let deployment = only_of(&objects, "Deployment", component);
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].clone();
        for name in ["icw-hub", "icw-receipts-key"] {
            let mut volumes = volumes.as_array().unwrap().iter();
            assert_eq!(volumes.any(|one| one["secret"]["secretName"] == name), mounted, "{component} {name}");
        }
    }
    for map in of_kind(&objects, "ConfigMap") {
        let settings = map["data"]["settings.toml"].as_str().unwrap();
        assert!(
            settings.contains("secret_file = \"/etc/instant-connect-worker/receipts/secret\""),
            "{settings}"
        );
        assert!(
            settings.contains("key_file = \"/etc/instant-connect-worker/receipts-key/key\""),
            "{settings}"
        );
    }
}

/// Two pods must never open one ledger file.
#[test]
fn ingress_has_no_file_ledger() {
    let kind = |objects: &Objects| {
        let env = container(objects, "ingress")["env"].as_array().unwrap().clone();
        env.iter().find(|variable| variable["name"] == "ICW_LEDGER__KIND").map(|kind| kind["value"].clone())
    };
    assert_eq!(kind(&with(&[])), Some(json!("memory")));
    assert_eq!(kind(&with(&["--set=config.ledger.kind=redis,redis.existingSecret=r"])), None);
    let volumes = only_of(&with(&[]), "Deployment", "ingress").to_string();
    assert!(!volumes.contains("persistentVolumeClaim"), "{volumes}");
}

#[test]
fn rollout_of_the_ingress_keeps_every_replica_and_its_probes_are_the_workers() {
    for name in ["ingress-values.yaml", "gateway-values.yaml"] {
        let objects = case(name);
        let spec = &only_of(&objects, "Deployment", "ingress")["spec"];
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
        assert_eq!(spec["strategy"], rolling, "{name}");
        assert_eq!(spec["template"]["spec"]["terminationGracePeriodSeconds"], 35, "{name}");
        let (worker, ingress) = (container(&objects, "worker"), container(&objects, "ingress"));
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(worker[probe], ingress[probe], "{name}");
        }
        let two = name.starts_with("ingress");
        assert_eq!(spec["replicas"], if two { 2 } else { 1 }, "{name}");
        assert_eq!(spec["template"]["spec"]["topologySpreadConstraints"].is_array(), two, "{name}");
        let budgets = of_kind(&objects, "PodDisruptionBudget");
        let own = budgets.iter().filter(|budget| budget["spec"]["selector"] == spec["selector"]);
        assert_eq!(own.count(), usize::from(two), "{name}");
    }
    let labels = only_of(&case("ingress-values.yaml"), "Deployment", "ingress")["spec"]["template"]["metadata"]["labels"].clone();
    assert_eq!(labels["example.com/tier"], "edge");
}

/// A change of the clients restarts the ingress only; a change of what both validate restarts both.
#[test]
fn changed_clients_restart_the_ingress_only() {
    let checksums = |argument: &str| {
        let objects = with(&[argument]);
        ["worker", "ingress"].map(|component| {
            let metadata = &only_of(&objects, "Deployment", component)["spec"]["template"]["metadata"];
            metadata["annotations"]["checksum/settings"].clone()
        })
    };
    let [worker, ingress] = checksums("--set=replicas=1");
    assert_eq!(checksums("--set=ingress.clients.b.existingSecret=s")[0], worker);
    assert_ne!(checksums("--set=ingress.clients.b.existingSecret=s")[1], ingress);
    assert_ne!(checksums("--set=config.ingress.in_flight_max=8")[1], ingress);
    assert_eq!(checksums("--set=config.ingress.in_flight_max=8")[0], worker);
    let rooms = checksums("--set=config.devices.allowed={*@example.rooms.webex.com}");
    assert!(rooms[0] != worker && rooms[1] != ingress);
}

#[test]
fn service_ingress_and_route_lead_to_the_ingress() {
    let objects = case("ingress-values.yaml");
    let service = only(&objects, "Service");
    let name = &service["metadata"]["name"];
    let spec = &service["spec"];
    let deployment = &only_of(&objects, "Deployment", "ingress")["spec"];
    assert_eq!(spec["selector"], deployment["selector"]["matchLabels"]);
    let port = json!([{"name": "ingress", "port": 8443, "targetPort": "ingress", "protocol": "TCP", "appProtocol": "https"}]);
    assert_eq!(spec["ports"], port);
    assert_eq!((&spec["type"], &spec["externalTrafficPolicy"]), (&json!("LoadBalancer"), &json!("Local")));
    let ports = &deployment["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0], json!({"name": "ingress", "containerPort": 8080, "protocol": "TCP"}));
    let ingress = &only(&objects, "Ingress")["spec"];
    let backend = &ingress["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!((&backend["name"], &backend["port"]["name"]), (name, &json!("ingress")));
    assert_eq!(ingress["rules"][0]["host"], ingress["tls"][0]["hosts"][0]);

    let objects = case("gateway-values.yaml");
    let service = only(&objects, "Service");
    assert_eq!(
        (&service["spec"]["type"], &service["spec"]["ports"][0]["port"]),
        (&json!("ClusterIP"), &json!(80))
    );
    let route = &only(&objects, "HTTPRoute")["spec"];
    let backend = json!([{"name": service["metadata"]["name"], "port": 80}]);
    assert_eq!(route["rules"][0]["backendRefs"], backend);
    assert_eq!(route["parentRefs"][0]["name"], "public");
    assert_eq!(only(&with(&[]), "Service")["spec"]["ports"][0]["port"], 443);
}

/// A Service's name has at most 63 characters.
#[test]
fn name_of_the_service_is_short_enough() {
    let long =
        "--set=fullnameOverride=a-name-of-exactly-sixty-three-characters-or-more-which-is-cut-somewhere";
    let objects = with(&[long]);
    let name = only(&objects, "Service")["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.len() <= 63 && name.ends_with("-ingress"), "{name}");
    assert_eq!(only_of(&objects, "Deployment", "ingress")["metadata"]["name"], name);
}

/// In the file, the alert about a missing ingress must have seen one.
#[test]
fn alert_for_a_missing_ingress_knows_that_the_release_has_one() {
    let expression = |arguments: &[&str]| {
        let arguments = [arguments, &["--set=prometheusRule.enabled=true,podMonitor.enabled=true"]].concat();
        let groups = only(&rendered(&arguments), "PrometheusRule")["spec"]["groups"].clone();
        let rules = groups.as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        let mut rules = rules.filter(|rule| rule["alert"] == "InstantConnectIngressMissing");
        rules.next().map(|rule| rule["expr"].as_str().unwrap().to_owned())
    };
    assert_eq!(expression(&LEAST), None, "a release that had an ingress needs none any more");
    let own = expression(&[LEAST[0], LEAST[1], INGRESS]).unwrap();
    let absent = "absent(instant_connect_build_info{namespace=\"video\",job=\"video/icw-instant-connect-worker\",role=\"ingress\"})";
    assert!(own.contains(absent), "{own}");
}

/// A signing secret is a file beside the tokens, so it rotates in the same way.
#[test]
fn signing_secrets_are_mounted_beside_the_tokens() {
    let objects = case("ingress-values.yaml");
    let deployment = only_of(&objects, "Deployment", "ingress");
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let clients = volumes.iter().find(|volume| volume["name"] == "clients").unwrap();
    let sources = clients["projected"]["sources"].as_array().unwrap();
    for (secret, key, path) in [
        ("icw-clients", "trial-signing", "trial.signing"),
        ("icw-signer", "signing-secret", "signer.signing"),
    ] {
        let expected = json!([{"key": key, "path": path}]);
        let found = sources.iter().map(|source| &source["secret"]);
        assert!(found.clone().any(|one| one["name"] == secret && one["items"] == expected), "{clients}");
    }
    let settings = of_kind(&objects, "ConfigMap")
        .iter()
        .map(|map| map["data"]["settings.toml"].as_str().unwrap_or_default().to_owned())
        .find(|settings| settings.contains("[ingress.clients.signer]"));
    let settings = settings.unwrap();
    assert!(
        settings.contains("signing_secret_file = \"/etc/instant-connect-worker/clients/signer.signing\"")
    );
}

#[test]
fn tokens_come_from_secrets_values_and_the_store() {
    let objects = case("ingress-values.yaml");
    let secret = only(&objects, "Secret");
    assert_eq!(secret["metadata"]["name"], "icw-instant-connect-worker-ingress-tokens");
    assert_eq!(secret["stringData"], json!({"trial": "icw_a-token-of-a-trial-client"}));
    let objects = case("gateway-values.yaml");
    let external = &only(&objects, "ExternalSecret")["spec"];
    let data = json!([{"secretKey": "flows", "remoteRef": {"key": "icw", "property": "flows"}}]);
    assert_eq!(external["data"], data);
    let deployment = only_of(&objects, "Deployment", "ingress").to_string();
    assert!(deployment.contains(external["target"]["name"].as_str().unwrap()), "{deployment}");
}

//! The topology objects equal those that the program declares.

use std::collections::BTreeMap;

use instant_connect_worker::config::{Sources, load};
use regex::Regex;
use serde_json::{Value, json};

use super::helm::{case, of_kind, only};

/// The program's plan for these settings from `topology --json`.
fn plan(flags: &[&str]) -> Value {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let config = load(&Sources { flags, ..Sources::default() }).unwrap().config;
    json!(config.topology().plan())
}

/// Values, the settings that they stand for, and the virtual host.
const CASES: &[(&str, &[&str], &str)] = &[
    (
        "topology-values.yaml",
        &[
            "topology.prefix=Clinic_7.video",
            "topology.queue_length_max=250000",
            "retry.delays=[\"500ms\", \"1m30s\", \"2h\"]",
        ],
        "video",
    ),
    (
        "everything-values.yaml",
        &["retry.delays=[\"1s\", \"10s\"]", "retry.multiplier=2", "retry.jitter=0.5"],
        "/",
    ),
    (
        "guests-values.yaml",
        &["guests.delivery=webex-connect", "send.allowed_prefixes=+34", "webex_connect.sms_from=1"],
        "/",
    ),
    (
        "receipts-values.yaml",
        &[
            "guests.delivery=webex-connect",
            "send.allowed_prefixes=+34",
            "webex_connect.sms_from=1",
            "receipts.secret_file=/s",
        ],
        "/",
    ),
];

#[test]
fn topology_objects_match_the_programs_declarations() {
    for (name, flags, vhost) in CASES {
        let objects = case(name);
        let plan = plan(flags);
        let exchanges: Vec<_> = of_kind(&objects, "Exchange")
            .iter()
            .map(|object| json!({"name": object["spec"]["name"], "type": object["spec"]["type"]}))
            .collect();
        assert_eq!(json!(exchanges), plan["exchanges"], "{name}");
        let bindings: Vec<_> = of_kind(&objects, "Binding")
            .iter()
            .map(|object| &object["spec"])
            .map(|spec| json!({"exchange": spec["source"], "routing_key": spec["routingKey"], "queue": spec["destination"]}))
            .collect();
        assert_eq!(json!(bindings), plan["bindings"], "{name}");
        let mut ours = BTreeMap::new();
        for object in of_kind(&objects, "Queue") {
            let mut arguments = object["spec"]["arguments"].clone();
            arguments["x-queue-type"] = object["spec"]["type"].clone();
            ours.insert(object["spec"]["name"].as_str().unwrap().to_owned(), arguments);
            assert_eq!(object["spec"]["deletionPolicy"], "retain");
        }
        let mut theirs = BTreeMap::new();
        for queue in plan["queues"].as_array().unwrap() {
            let pairs = queue["arguments"].as_array().unwrap().iter();
            let arguments: serde_json::Map<_, _> =
                pairs.map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[1].clone())).collect();
            theirs.insert(queue["name"].as_str().unwrap().to_owned(), Value::Object(arguments));
        }
        assert_eq!(ours, theirs, "{name}");
        for kind in ["Exchange", "Queue", "Binding", "User", "Permission"] {
            let found = of_kind(&objects, kind);
            assert!(!found.is_empty(), "{name}: {kind}");
            for object in found {
                assert_eq!(object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
                assert!(object["spec"]["rabbitmqClusterReference"].is_object(), "{name}");
                assert!(kind == "User" || object["spec"]["vhost"] == *vhost, "{name}: {kind}");
            }
        }
    }
}

#[test]
fn permission_allows_only_the_prefix_and_the_default_exchange() {
    let objects = case("topology-values.yaml");
    let permission = &only(&objects, "Permission")["spec"];
    assert_eq!(permission["userReference"]["name"], only(&objects, "User")["metadata"]["name"]);
    let allows = |right: &str, name: &str| {
        Regex::new(permission["permissions"][right].as_str().unwrap()).unwrap().is_match(name)
    };
    for right in ["configure", "write", "read"] {
        assert!(
            allows(right, "Clinic_7.video.sessions") && allows(right, "Clinic_7.video.hosts.hold.500"),
            "{right}"
        );
        for other in
            ["Clinic_7xvideo.sessions", "Clinic_7.videos", "other", "", "amq.topic", "a.Clinic_7.video.x"]
        {
            assert!(!allows(right, other), "{right} {other}");
        }
        assert_eq!(allows(right, "amq.default"), right == "write", "{right}");
    }
}

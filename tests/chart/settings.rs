//! The rendered settings file, read by the program's own loader.

use std::{fs, path::Path};

use instant_connect_worker::config::{LedgerChoice, Loaded, Sources, load};
use serde_json::Value;

use super::helm::{LEAST, Objects, case, cases, only, pods, rendered};

const FOLDER: &str = "/etc/instant-connect-worker";

/// Writes the files below `root` where the worker's pod mounts them, and loads the settings as the container does.
fn loaded(objects: &Objects, root: &Path) -> Result<Loaded, String> {
    loaded_by(pods(objects)[0], objects, root)
}

/// The files of a volume, each with the name of its Secret's key.
fn files(volume: &Value) -> Vec<(String, String)> {
    let projected =
        volume["projected"]["sources"].as_array().into_iter().flatten().map(|source| &source["secret"]);
    let sources = [&volume["secret"], &volume["configMap"]].into_iter().chain(projected);
    let items = sources.flat_map(|source| source["items"].as_array().into_iter().flatten());
    items
        .map(|item| [&item["path"], &item["key"]].map(|text| text.as_str().unwrap().to_owned()).into())
        .collect()
}

/// As [`loaded`], for any pod.
fn loaded_by(pod: &Value, objects: &Objects, root: &Path) -> Result<Loaded, String> {
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let map = objects
        .iter()
        .find(|object| {
            object["kind"] == "ConfigMap" && object["metadata"]["name"] == volumes[0]["configMap"]["name"]
        })
        .unwrap();
    let certificate = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    for mount in mounts.as_array().unwrap() {
        let Some(folder) = mount["mountPath"].as_str().unwrap().strip_prefix(FOLDER) else { continue };
        let folder = root.join(folder.trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        for (file, _) in files(volume) {
            let text = match (volume["name"].as_str().unwrap(), file.as_str()) {
                ("amqp", "url") => "amqps://user:password@broker.example/video".to_owned(),
                ("redis", "url") => "rediss://redis.example".to_owned(),
                ("webex" | "hosts", "token") => "a-token\n".to_owned(),
                ("receipts", "secret") => "a-hub-secret-for-tests\n".to_owned(),
                ("receipts-key", "key") => "a-key-of-receipts-for-tests\n".to_owned(),
                ("webex-connect", "key") => "YS1rZXkK\n".to_owned(),
                ("ca" | "ingress-client-ca", "ca.crt") | ("ingress-tls", "tls.crt") => certificate.cert.pem(),
                ("ingress-tls", "tls.key") => certificate.signing_key.serialize_pem(),
                ("clients", name) if name.ends_with(".signing") => {
                    format!("whsec_{}\n", "A".repeat(28) + &name.replace('.', "+")[..4])
                }
                ("clients", name) => format!("icw_a-token-of-{name}-for-tests\n"),
                other => panic!("{other:?}"),
            };
            fs::write(folder.join(&file), text).unwrap();
        }
    }
    let text = map["data"]["settings.toml"].as_str().unwrap();
    let file = root.join("settings").join("settings.toml");
    fs::write(&file, text.replace(FOLDER, root.to_str().unwrap())).unwrap();
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let environment = env
        .iter()
        .filter(|variable| variable["value"].is_string() && variable["name"] != "ICW_CONFIG")
        .map(|variable| [&variable["name"], &variable["value"]].map(|text| text.as_str().unwrap().to_owned()))
        .map(|[name, value]| (name, value))
        .collect();
    load(&Sources { file: Some(file), environment, ..Sources::default() }).map_err(|error| error.to_string())
}

fn load_with(arguments: &[&str]) -> Result<Loaded, String> {
    let arguments: Vec<_> = LEAST.into_iter().chain(arguments.iter().copied()).collect();
    let root = tempfile::tempdir().unwrap();
    loaded(&rendered(&arguments), root.path())
}

#[test]
fn program_loads_settings_and_secrets_of_each_case() {
    for name in cases() {
        let root = tempfile::tempdir().unwrap();
        let loaded = loaded(&case(&name), root.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        loaded.instant_connect_token().unwrap_or_else(|error| panic!("{name}: {error}"));
        if loaded.delivers_to_hosts() {
            loaded.hosts_token().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(loaded.config.amqp.url_file.is_some(), "{name}");
        let given = ["production-values.yaml", "everything-values.yaml"].contains(&name.as_str());
        assert_eq!(loaded.config.tls.ca_file.is_some(), given, "{name}");
    }
}

/// The ingress starts with what its pod mounts, and validates events as the workers do.
#[test]
fn ingress_loads_its_clients_and_certificate_and_the_workers_rules() {
    for (name, kind, clients) in [
        ("ingress-values.yaml", LedgerChoice::Redis, &["clinic_a", "flows", "signer", "trial"][..]),
        ("gateway-values.yaml", LedgerChoice::Memory, &["flows"]),
    ] {
        let objects = case(name);
        let [worker, ingress, test] = pods(&objects)[..] else { panic!("{name}") };
        let roots = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let load = |pod, n: usize| {
            loaded_by(pod, &objects, roots[n].path()).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let (worker, ingress, test) = (load(worker, 0), load(ingress, 1), load(test, 2));
        assert_eq!(worker.config.ingress.listen, None, "{name}");
        for loaded in [&ingress, &test] {
            let section = &loaded.config.ingress;
            assert_eq!(section.listen, Some("0.0.0.0:8080".parse().unwrap()), "{name}");
            assert!(section.clients.keys().map(String::as_str).eq(clients.iter().copied()), "{name}");
            assert_eq!(section.tls_cert_file.is_some(), name.starts_with("ingress"), "{name}");
            assert_eq!(section.client_ca_file.is_some(), name.starts_with("ingress"), "{name}");
        }
        assert_eq!(ingress.config.ledger.kind, kind, "{name}");
        let devices = [&ingress, &worker].map(|loaded| format!("{:?}", loaded.config.devices.allowed));
        assert_eq!(devices[0], devices[1], "{name}");
        // Fails if a file of the pod is missing: the test's pod has the bot token, the ingress does not.
        test.instant_connect_token().unwrap();
        assert!(ingress.instant_connect_token().is_err(), "{name}");
    }
    let objects = case("ingress-values.yaml");
    let root = tempfile::tempdir().unwrap();
    let loaded = loaded_by(pods(&objects)[1], &objects, root.path()).unwrap();
    let flows = &loaded.config.ingress.clients["flows"];
    assert_eq!((flows.rate.get(), flows.burst.get(), flows.allowed_addresses.len()), (1000, 100_000, 2));
    assert!(loaded.config.ingress.clients["clinic_a"].scopes.is_empty());
    // The keys of the Secrets.
    let pod = pods(&objects)[1];
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let clients = volumes.iter().find(|volume| volume["name"] == "clients").unwrap();
    let expected = [
        ("flows", "flows"),
        ("signer.signing", "signing-secret"),
        ("trial", "trial"),
        ("trial.signing", "trial-signing"),
    ];
    assert_eq!(files(clients), expected.map(|(file, key)| (file.to_owned(), key.to_owned())));
}

#[test]
fn numbers_lists_and_texts_are_rendered_unchanged() {
    let settings = load_with(&[
        "--set=config.topology.queue_length_max=1000000,config.retry.multiplier=2",
        "--set-json=config.retry.jitter=0.25",
        "--set=config.amqp.prefetch=64,config.instant_connect.host_login=false",
        "--set-string=config.instant_connect.aud=a\\,<b>&\"c\" \\u00e9 é",
        "--set-json=config.devices.allowed=[\"*@example.rooms.webex.com\"]",
    ])
    .unwrap();
    assert_eq!(settings.config.topology.queue_length_max.get(), 1_000_000);
    assert!((settings.config.retry.multiplier - 2.0).abs() < f64::EPSILON);
    assert!((settings.config.retry.jitter - 0.25).abs() < f64::EPSILON);
    assert_eq!(settings.config.amqp.prefetch.get(), 64);
    assert!(!settings.config.instant_connect.host_login);
    assert!(settings.config.instant_connect.aud.as_str().starts_with("a,<b>&\"c\""));
    let text =
        only(&rendered(&[LEAST[0], LEAST[1], "--set=config.topology.queue_length_max=1000000"]), "ConfigMap")
            ["data"]["settings.toml"]
            .clone();
    assert!(text.as_str().unwrap().contains("queue_length_max = 1000000\n"), "{text}");
}

/// Helm reads the numbers of a values file as floating point.
#[test]
fn whole_numbers_of_a_values_file_stay_whole() {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), "config: {topology: {queue_length_max: 2147483647}, amqp: {prefetch: 32}, retry: {multiplier: 3.0, jitter: 0}}\n").unwrap();
    let settings = load_with(&["--values", file.path().to_str().unwrap()]).unwrap();
    assert_eq!(settings.config.topology.queue_length_max.get(), 2_147_483_647);
}

#[test]
fn secret_of_webex_connect_is_that_of_jwts_if_there_is_an_issuer() {
    let guests = [
        "--set=config.guests.delivery=webex-connect",
        "--set-string=config.webex_connect.sms_from=34900123123",
        "--set-json=config.send.allowed_prefixes=[\"+34\"]",
        "--set=webexConnect.existingSecret=connect",
    ];
    let by_key = load_with(&guests).unwrap().config.webex_connect;
    assert!(by_key.key_file.is_some() && by_key.jwt_secret_file.is_none());
    let issuer = ["--set=config.webex_connect.jwt_issuer=service-1"];
    let by_jwt = load_with(&[&guests[..], &issuer].concat()).unwrap().config.webex_connect;
    assert!(by_jwt.key_file.is_none() && by_jwt.jwt_secret_file.is_some());
}

#[test]
fn unknown_setting_fails_in_the_program_without_the_schema() {
    let error = load_with(&["--skip-schema-validation", "--set=config.amqp.prefech=1"]).unwrap_err();
    assert!(error.contains("amqp.prefech") && error.contains("did you mean amqp.prefetch"), "{error}");
}

/// The ledger file is on the volume, and its name contains the prefix.
#[test]
fn ledger_path_is_on_the_mounted_volume() {
    let settings = load_with(&["--set=config.topology.prefix=clinic"]).unwrap();
    let path = settings.config.ledger.path.clone().unwrap();
    assert_eq!(path, Path::new("/var/lib/instant-connect-worker/clinic.ledger"));
    let objects = case("least-values.yaml");
    let mounts = pods(&objects)[0]["spec"]["containers"][0]["volumeMounts"].as_array().unwrap().clone();
    let ledger: Vec<&Value> = mounts.iter().filter(|mount| mount["name"] == "ledger").collect();
    assert_eq!(ledger[0]["mountPath"], path.parent().unwrap().to_str().unwrap());
}

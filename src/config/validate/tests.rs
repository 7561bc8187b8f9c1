use super::*;
use crate::{
    config::{Loaded, Sources, load},
    ledger,
};

fn with(environment: &[(&str, &str)]) -> Result<Loaded, String> {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load(&Sources { environment, ..Sources::default() }).map_err(|error| error.to_string())
}

#[test]
fn ca_file_is_trusted_for_redis_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let authority = rcgen::generate_simple_self_signed(["redis".to_owned()]).unwrap();
    std::fs::write(&path, authority.cert.pem()).unwrap();
    let path = path.to_str().unwrap();
    let redis = [
        ("ICW_LEDGER__KIND", "redis"),
        ("ICW_LEDGER__URL", "rediss://redis.example.com"),
        ("ICW_TLS__CA_FILE", path),
    ];
    let ledger::LedgerKind::Redis { ca_file, .. } = with(&redis).unwrap().ledger() else { panic!() };
    assert_eq!(ca_file.as_deref(), Some(Path::new(path)));
}

#[test]
fn remote_url_without_tls_needs_allow_insecure() {
    for (host, valid) in [
        ("localhost", true),
        ("127.0.0.1:8080", true),
        ("[::1]:1", true),
        ("rabbit", true),
        ("mq.prod.svc", true),
        ("mq.prod.svc.cluster.local", true),
        ("example.com", false),
        ("10.0.0.5", false),
        ("svc.example.com", false),
        ("localhost.example.com", false),
        ("127.0.0.1.example.com", false),
        ("192.168.1.1", false),
    ] {
        assert_eq!(
            with(&[("ICW_INSTANT_CONNECT__URL", &format!("http://{host}"))]).is_ok(),
            valid,
            "http://{host}"
        );
        assert_eq!(
            with(&[("ICW_HOSTS__WEBEX_URL", &format!("http://{host}"))]).is_ok(),
            valid,
            "http://{host}"
        );
        assert_eq!(with(&[("ICW_AMQP__URL", &format!("amqp://u:p@{host}"))]).is_ok(), valid, "amqp://{host}");
        assert!(with(&[("ICW_AMQP__URL", &format!("amqps://u:p@{host}/v"))]).is_ok());
    }
    assert!(with(&[("ICW_AMQP__URL", "amqp://example.com"), ("ICW_AMQP__ALLOW_INSECURE", "true")]).is_ok());
    for wrong in [
        "amqp://a,amqp://example.com",
        "amqp://evil%2eexample%2ecom",
        "amqp://134744072",
        "amqp://a?heartbeat=x",
    ] {
        assert!(with(&[("ICW_AMQP__URL", wrong)]).is_err(), "{wrong}");
    }
}

#[test]
fn url_setting_may_name_host_or_endpoint() {
    for (given, url) in [
        ("http://localhost:1", "http://localhost:1/api/v2/joseencrypt"),
        ("http://localhost:1/", "http://localhost:1/api/v2/joseencrypt"),
        ("http://localhost:1/api/v2/joseencrypt", "http://localhost:1/api/v2/joseencrypt"),
        ("http://localhost:1/api/v2/joseencrypt/", "http://localhost:1/api/v2/joseencrypt"),
        ("http://localhost:1/proxy/", "http://localhost:1/proxy/api/v2/joseencrypt"),
    ] {
        assert_eq!(with(&[("ICW_INSTANT_CONNECT__URL", given)]).unwrap().joseencrypt_url().as_str(), url);
    }
    for (given, url) in [
        ("http://localhost:1", "http://localhost:1/v1/messages"),
        ("http://localhost:1/v1", "http://localhost:1/v1/messages"),
        ("http://localhost:1/v1/", "http://localhost:1/v1/messages"),
        ("http://localhost:1/v1/messages", "http://localhost:1/v1/messages"),
    ] {
        assert_eq!(with(&[("ICW_HOSTS__WEBEX_URL", given)]).unwrap().messages_url().as_str(), url);
    }
}

#[test]
fn contradicting_settings_are_refused() {
    let error = with(&[("ICW_RETRY__INITIAL", "1h")]).unwrap_err();
    assert_eq!(
        error,
        "environment ICW_RETRY__INITIAL: retry.initial = \"1h\": expected at most retry.max, which is 600s"
    );
    let both = with(&[("ICW_HOSTS__TOKEN", "x"), ("ICW_HOSTS__TOKEN_FILE", "/x")]).unwrap_err();
    assert!(both.contains("both are given"), "{both}");
}

#[test]
fn missing_token_error_names_the_variable() {
    let error = with(&[]).unwrap().hosts_token().unwrap_err().to_string();
    assert!(error.contains("ICW_INSTANT_CONNECT__TOKEN_FILE"), "{error}");
}

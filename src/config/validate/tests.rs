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
fn receipts_have_one_secret_or_key_or_none_and_need_no_client() {
    let (secret, file) = ("ICW_RECEIPTS__SECRET", "ICW_RECEIPTS__SECRET_FILE");
    let (key, key_file) = ("ICW_RECEIPTS__KEY", "ICW_RECEIPTS__KEY_FILE");
    let unsigned = ("ICW_RECEIPTS__ALLOW_UNSIGNED", "true");
    let valid = "a-secret-of-the-webhook";
    for (settings, expected) in [
        (&[(secret, valid)][..], None),
        (&[(file, "/etc/secrets/hub")], None),
        (&[unsigned], None),
        (&[(secret, valid), (file, "/etc/secrets/hub")], Some("both are given")),
        (&[(secret, "too-short")], Some("16 to 512")),
        (&[(secret, "with a space in the secret")], Some("without spaces")),
        (&[(secret, valid), unsigned], Some("expected false")),
        (&[(file, "/etc/secrets/hub"), unsigned], Some("expected false")),
        (&[(key, valid)], None),
        (&[(key_file, "/etc/secrets/key"), (secret, valid)], None),
        (&[(key, valid), (key_file, "/etc/secrets/key")], Some("both are given")),
        (&[(key, "too-short")], Some("16 to 512")),
        (&[(key, valid), unsigned], Some("expected false")),
        (&[(key_file, "pasted-secret-of-the-webhook")], Some("the path of a file")),
        (&[(key, valid), ("ICW_RECEIPTS__KEY_HEADER", "x key")], Some("expected the name of a header")),
        (&[(file, "pasted-secret-of-the-webhook")], Some("the path of a file")),
    ] {
        let found = with(settings).map(|loaded| loaded.config.takes_receipts());
        match expected {
            None => assert_eq!(found, Ok(true), "{settings:?}"),
            Some(words) => {
                let error = found.unwrap_err();
                assert!(error.contains(words) && !error.contains("secret-of-the-webhook"), "{error}");
            }
        }
    }
    let listen = ("ICW_INGRESS__LISTEN", "127.0.0.1:0");
    assert!(with(&[listen]).unwrap_err().contains("at least one client"));
    assert!(with(&[listen, (secret, valid)]).is_ok(), "an ingress for receipts only");
    assert!(!with(&[("ICW_RECEIPTS__ALGORITHM", "sha512")]).unwrap().config.takes_receipts());
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

#[test]
fn settings_for_guests_count_only_if_this_worker_sends_to_them() {
    let short = [
        ("ICW_AMQP__DELIVERY_TIMEOUT", "3s"),
        ("ICW_INSTANT_CONNECT__TIMEOUT", "1s"),
        ("ICW_HOSTS__TIMEOUT", "1s"),
    ];
    assert!(with(&short).is_ok());
    let sends = [
        ("ICW_GUESTS__DELIVERY", "webex-connect"),
        ("ICW_WEBEX_CONNECT__SMS_FROM", "34900123123"),
        ("ICW_SEND__ALLOWED_PREFIXES", "+34"),
    ];
    assert!(with(&sends).is_ok());
    let error = with(&[&sends[..], &short].concat()).unwrap_err();
    assert!(error.contains("webex_connect.timeout"), "{error}");
    for (key, value, named) in [
        ("ICW_SEND__ALLOWED_PREFIXES", "", "send.allowed_prefixes"),
        ("ICW_SEND__ALLOWED_PREFIXES", "34", "send.allowed_prefixes"),
        ("ICW_SEND__MIN_REMAINING", "2h", "send.min_remaining"),
        ("ICW_WEBEX_CONNECT__SMS_FROM", "", "webex_connect.sms_from"),
        ("ICW_WEBEX_CONNECT__SMS_FROM", "+34900123123", "webex_connect.sms_from"),
        ("ICW_WEBEX_CONNECT__TIME_ZONE", "Madrid", "webex_connect.time_zone"),
        ("ICW_WEBEX_CONNECT__URL", "http://connect.example", "webex_connect.url"),
        ("ICW_WEBEX_CONNECT__WHATSAPP_PARAMETERS", "name", "webex_connect.whatsapp_parameters"),
        ("ICW_WEBEX_CONNECT__WHATSAPP_APP_ID", "a", "webex_connect.whatsapp_app_id"),
    ] {
        let environment: Vec<_> =
            sends.into_iter().filter(|(given, _)| *given != key).chain([(key, value)]).collect();
        let error = with(&environment).map(drop).expect_err(key);
        assert!(error.contains(named), "{error}");
    }
    let template = ("ICW_WEBEX_CONNECT__WHATSAPP_TEMPLATES__EN_GB", "7781");
    let locale = ("ICW_WEBEX_CONNECT__LOCALE", "en-GB");
    let app = ("ICW_WEBEX_CONNECT__WHATSAPP_APP_ID", "a");
    let loaded = with(&[&sends[..], &[template, locale, app]].concat()).unwrap();
    assert_eq!(loaded.config.webex_connect.templates().unwrap().find(Some("en-GB-oxendict")), "7781");
}

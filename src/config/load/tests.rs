use super::*;

fn with(environment: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, String> {
    let sources = Sources {
        environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|f| (*f).to_owned()).collect(),
        ..Sources::default()
    };
    load(&sources).map_err(|error| error.to_string())
}

fn file(text: &str) -> Result<Loaded, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let error = |error: ConfigError| error.to_string().replace(&file.path().display().to_string(), "FILE");
    load(&Sources { file: Some(file.path().to_owned()), ..Sources::default() }).map_err(error)
}

#[test]
fn defaults_are_a_valid_configuration() {
    let loaded = with(&[], &[]).unwrap();
    assert_eq!(loaded.config.amqp.prefetch.get(), 32);
    assert!(loaded.settings.rows().all(|(_, _, origin)| *origin == Origin::Default));
}

#[test]
fn later_layer_wins() {
    let loaded = with(
        &[("ICW_AMQP__PREFETCH", "7"), ("ICW_TOPOLOGY__PREFIX", "a"), ("PATH", "x")],
        &["topology.prefix=b"],
    )
    .unwrap();
    assert_eq!(loaded.config.amqp.prefetch.get(), 7);
    assert_eq!(loaded.config.topology.prefix.as_str(), "b");
    assert_eq!(loaded.settings.origin("topology.prefix"), Some(&Origin::Flag));
}

#[test]
fn changed_rows_are_those_with_another_value_than_the_default() {
    let environment = [("ICW_AMQP__PREFETCH", "32"), ("ICW_INSTANT_CONNECT__TOKEN", "s3cret"), ("PATH", "x")];
    let loaded = with(&environment, &["topology.prefix=b"]).unwrap();
    let changed: Vec<_> = loaded.settings.changed_rows().map(|(key, value, _)| (key, value)).collect();
    let expected = [("instant_connect.token", "[hidden]"), ("topology.prefix", "\"b\"")];
    assert_eq!(changed, expected.map(|(key, value)| (key, value.to_owned())));
}

#[test]
fn environment_values_have_the_type_of_the_default() {
    let loaded = with(
        &[
            ("ICW_INSTANT_CONNECT__TOKEN", "12345"),
            ("ICW_DEVICES__ALLOWED", "a@b.example, *@c.example"),
            ("ICW_RETRY__MULTIPLIER", "3"),
        ],
        &["instant_connect.allowed_base_urls=[\"https://x.example/\"]"],
    )
    .unwrap();
    assert_eq!(loaded.config.instant_connect.allowed_base_urls.len(), 1);
    assert!((loaded.config.retry.multiplier - 3.0).abs() < f64::EPSILON);
}

#[test]
fn error_names_origin_key_value_and_expectation() {
    for (environment, expected) in [
        (
            ("ICW_AMQP__PREFETCH", "many"),
            "environment ICW_AMQP__PREFETCH: amqp.prefetch = \"many\": expected a whole number",
        ),
        (
            ("ICW_AMQP__PREFETCH", "0"),
            "environment ICW_AMQP__PREFETCH: amqp.prefetch = 0: expected a whole number from 1 to 65535",
        ),
        (
            ("ICW_RETRY__MAX", "soon"),
            "environment ICW_RETRY__MAX: retry.max = \"soon\": expected a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\", above zero and at most a year",
        ),
        (
            ("ICW_TOPOLOGY__DECLARE", "maybe"),
            "environment ICW_TOPOLOGY__DECLARE: topology.declare = \"maybe\": expected one of create, check, off",
        ),
        (
            ("ICW_TOPOLOGY__PREFIX", "a b"),
            "environment ICW_TOPOLOGY__PREFIX: topology.prefix = \"a b\": expected 1 to 200 letters, digits, -, _, . and :, not beginning with amq.",
        ),
        (
            ("ICW_INSTANT_CONNECT__ENC", "ROT13"),
            "environment ICW_INSTANT_CONNECT__ENC: instant_connect.enc = \"ROT13\": expected one of A128CBC-HS256, A192CBC-HS384, A256CBC-HS512, A128GCM, A192GCM, A256GCM",
        ),
        (
            ("ICW_INSTANT_CONNECT__SALT_LENGTH", "7"),
            "environment ICW_INSTANT_CONNECT__SALT_LENGTH: instant_connect.salt_length = 7: expected 0 or a whole number from 8 to 128",
        ),
        (
            ("ICW_INSTANT_CONNECT__URL", "ftp://nowhere"),
            "environment ICW_INSTANT_CONNECT__URL: instant_connect.url = \"ftp://nowhere\": expected a URL such as https://host/",
        ),
        (
            ("ICW_DEVICES__ALLOWED", "*"),
            "environment ICW_DEVICES__ALLOWED: devices.allowed = [1 hidden]: entry 1: expected device addresses such as room-12@example.rooms.webex.com, or with a wildcard such as *@example.rooms.webex.com",
        ),
        (
            ("ICW_HOSTS__ALLOWED", "dr lee@example.com"),
            "environment ICW_HOSTS__ALLOWED: hosts.allowed = [1 hidden]: entry 1: expected an e-mail address, all addresses of a domain such as *@example.com, or a Webex id",
        ),
        (
            ("ICW_AMQP_URL", "x"),
            "environment ICW_AMQP_URL: unknown variable; did you mean ICW_AMQP__URL (two underscores)?",
        ),
        (
            ("ICW_AMQP__URLL", "amqp://u:secret@h"),
            "environment ICW_AMQP__URLL: amqp.urll: unknown key (did you mean amqp.url?); known in amqp: allow_insecure, auth, bytes_in_progress, client_cert_file, client_key_file, concurrency, connect_timeout, deliveries_max, delivery_timeout, prefetch, reconnect_max, timeout, url, url_file, watch_interval",
        ),
    ] {
        assert_eq!(with(&[environment], &[]).unwrap_err(), expected);
    }
}

#[test]
fn error_in_a_file_names_the_file() {
    assert_eq!(
        file("[amqp]\nprefetch = \"x\"\n").unwrap_err(),
        "file FILE: amqp.prefetch = \"x\": expected a whole number"
    );
    assert!(!file("[amqp]\nurl = \"amqp://u:secret@h/").unwrap_err().contains("secret"));
    assert!(file("[amqp]\n\nx\n").unwrap_err().starts_with("file FILE: line 3: invalid TOML"));
    assert!(file("[amqq]\nurl = 1\n").unwrap_err().contains("unknown key"));
    assert!(
        load(&Sources { file: Some("/nonexistent".into()), ..Sources::default() })
            .unwrap_err()
            .to_string()
            .contains("No such file")
    );
}

#[test]
fn secrets_of_proxy_and_otlp_variables_are_masked() {
    let environment = [
        ("HTTPS_PROXY", "http://u:pr%2Fxy-s3cret@proxy:3128"),
        ("https_proxy", "u:small-s3cret@proxy:3128"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=one, authorization=Bearer%20collector-s3cret"),
    ];
    with(&environment, &[]).unwrap();
    let text = "pr/xy-s3cret pr%2Fxy-s3cret small-s3cret Bearer collector-s3cret";
    assert_eq!(masking::masked(text), "[hidden] [hidden] [hidden] [hidden]");
}

#[test]
fn secret_values_are_not_shown() {
    let secrets = [
        ("ICW_AMQP__URL", "gopher://u:s3cret@h"),
        ("ICW_AMQP__URL", "amqp://u:s3cret@localhost?heartbeat=abc"),
        ("ICW_AMQP__URL_FILE", "amqp://u:s3cret@h"),
        ("ICW_INSTANT_CONNECT__TOKEN", "s3 cret"),
        ("ICW_INSTANT_CONNECT__URL", "https://u:s3cret@h"),
        ("ICW_INSTANT_CONNECT__ALLOWED_BASE_URLS", "https://u:s3cret@h/"),
        ("ICW_INSTANT_CONNECT__URL", "s3cret"),
        ("ICW_HOSTS__WEBEX_URL", "eyJ.s3cret.x"),
        ("ICW_INSTANT_CONNECT__ALLOWED_BASE_URLS", "https://h/,s3cret"),
        ("ICW_TELEMETRY__OTLP_ENDPOINT", "Bearer s3cret"),
    ];
    for secret in secrets {
        assert!(!with(&[secret], &[]).unwrap_err().contains("cret"), "{secret:?}");
    }
    let loaded =
        with(&[("ICW_AMQP__URL", "amqp://u:s3cret@localhost"), ("ICW_HOSTS__TOKEN", "s3cret")], &[]).unwrap();
    assert!(loaded.settings.rows().all(|(_, value, _)| !value.contains("s3cret")));
    assert!(!format!("{loaded:?}").contains("s3cret"));
}

#[test]
fn client_of_the_ingress_is_given_by_file_environment_and_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    let text = "[ingress]\nlisten = \"127.0.0.1:0\"\n[ingress.clients.flows]\ntoken = \"icw_token-of-the-flows-1\"\nburst = 7\n\
                [ingress.clients.\"*\"]\nrate = 5";
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: vec![
            ("ICW_INGRESS__CLIENTS__FLOWS__BURST".to_owned(), "9".to_owned()),
            ("ICW_INGRESS__CLIENTS__CLINIC_A__TOKEN".to_owned(), "icw_token-of-the-clinic".to_owned()),
        ],
        flags: vec!["ingress.clients.clinic_a.scopes=[]".to_owned()],
        ..Sources::default()
    };
    let loaded = load(&sources).unwrap();
    let clients = &loaded.config.ingress.clients;
    let numbers: Vec<_> = clients
        .iter()
        .map(|(name, client)| (name.as_str(), client.rate.get(), client.burst.get(), client.scopes.len()))
        .collect();
    assert_eq!(numbers, [("clinic_a", 5, 40, 0), ("flows", 5, 9, 1)]);
    let shown = format!("{:?} {:?}", loaded.settings, loaded.config);
    assert!(!shown.contains("icw_token"), "{shown}");
}

#[test]
fn wrong_setting_of_a_client_is_an_error_without_the_token() {
    const TOKEN: &str = "icw_secret-token-of-the-flows";
    for (key, value, words) in [
        ("flows.tokn", TOKEN, "unknown key (did you mean ingress.clients.*.token?)"),
        ("Flows.token", TOKEN, "expected a client name of 1 to 40"),
        ("a__b.token", TOKEN, "expected a client name of 1 to 40"),
        ("flows.token", "icw_secret", "expected 22 to 512 printable characters"),
        ("flows.token_sha256", TOKEN, "expected 64 hexadecimal digits"),
        ("flows.token_file", TOKEN, "expected the path of a file"),
        ("flows.rate", "often", "expected a whole number"),
        ("flows.rate", "0", "expected a whole number from 1 to 10000"),
        ("flows.signing_secret", TOKEN, "expected whsec_ and 24 to 64 bytes in base64"),
        (
            "flows.signing_secret",
            "whsec_c2VjcmV0LXRva2VuLW9mLXRoZS1mbA==",
            "expected whsec_ and 24 to 64 bytes",
        ),
        ("flows.signing_secret_file", TOKEN, "expected the path of a file"),
        ("flows.rate", "7", "expected a token_file, a token, a token_sha256, a signing_secret_file"),
        ("flows.scopes", "admin", "entry 1: expected start"),
        ("flows.allowed_addresses", "example.com", "entry 1: expected an IP address, or a CIDR block"),
    ] {
        let flags = vec![format!("ingress.clients.{key}={value}")];
        let error = load(&Sources { flags, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.contains(words), "{key}: {error}");
        assert!(!error.contains("icw_secret") && !error.contains("c2Vjc"), "{error}");
    }
}

#[test]
fn listening_needs_a_client_and_tls_except_on_loopback() {
    let with = |listen: &str, more: &[&str]| {
        let flags = [
            &[format!("ingress.listen={listen}")],
            &more.iter().map(|flag| format!("ingress.{flag}")).collect::<Vec<_>>()[..],
        ];
        load(&Sources { flags: flags.concat(), ..Sources::default() })
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let client = "clients.flows.token=icw_token-of-the-flows-1";
    assert!(with("127.0.0.1:8080", &[]).unwrap_err().contains("expected at least one client"));
    for (listen, more, valid) in [
        ("127.0.0.1:8080", "in_flight_max=64", true),
        ("[::1]:0", "in_flight_max=64", true),
        ("off", "in_flight_max=64", true),
        ("0.0.0.0:8080", "in_flight_max=64", false),
        ("10.0.0.1:8080", "in_flight_max=64", false),
        ("[::]:8080", "in_flight_max=64", false),
        ("0.0.0.0:8080", "allow_insecure=true", true),
        ("127.0.0.1:8080", "tls_cert_file=/a/cert.pem", false),
        ("127.0.0.1:8080", "client_ca_file=/a/ca.pem", false),
    ] {
        assert_eq!(with(listen, &[client, more]).is_ok(), valid, "{listen} {more}");
    }
}

use super::*;
use crate::ingress::client_signatures;

const TOKENS: [&str; 2] = ["icw_token-of-the-first-client", "icw_token-of-the-second-client"];

fn config(token: &str, more: &str) -> ClientConfig {
    let base = serde_json::json!({
        "token_file": "", "token": token, "token_sha256": "", "signing_secret_file": "", "signing_secret": "",
            "scopes": ["start"],
        "rate": 1, "burst": 1, "allowed_addresses": []
    });
    let mut config = base;
    let more: serde_json::Value = serde_json::from_str(more).unwrap();
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn clients(second: &str) -> Clients {
    let both = [("first", config(TOKENS[0], "{}")), ("second", config(TOKENS[1], second))];
    Clients::open(&both.map(|(name, config)| (name.to_owned(), config)).into(), 5).unwrap()
}

fn admit(clients: &Clients, authorization: &str) -> Result<String, Denied> {
    let address = "192.0.2.1".parse().unwrap();
    let client = clients.admit(Some(authorization.as_bytes()), address, ClientScope::Start)?;
    Ok(client.name.clone())
}

#[test]
fn token_identifies_its_client() {
    let clients = clients("{}");
    assert_eq!(admit(&clients, &format!("Bearer {}", TOKENS[0])).unwrap(), "first");
    assert_eq!(admit(&clients, &format!("bearer  {} ", TOKENS[1])).unwrap(), "second");
    for (wrong, failure) in [
        (format!("Basic {}", TOKENS[0]), AuthFailure::Malformed),
        (TOKENS[0].to_owned(), AuthFailure::Malformed),
        ("Bearer".to_owned(), AuthFailure::Malformed),
        (format!("Bearer {}x", TOKENS[0]), AuthFailure::Unknown),
        (format!("Bearer {}", &TOKENS[0][..20]), AuthFailure::Unknown),
        (format!("Bearer {0} {0}", TOKENS[0]), AuthFailure::Unknown),
    ] {
        assert_eq!(admit(&clients, &wrong), Err(Denied::Unauthenticated(failure)), "{wrong}");
    }
}

#[test]
fn address_with_many_refused_requests_is_throttled_and_valid_tokens_are_not() {
    let clients = clients("{}");
    for _ in 0..10 {
        assert!(matches!(admit(&clients, "Bearer guess"), Err(Denied::Unauthenticated(_))));
    }
    assert!(matches!(admit(&clients, "Bearer guess"), Err(Denied::Throttled(AuthFailure::Unknown, _))));
    assert!(admit(&clients, &format!("Bearer {}", TOKENS[0])).is_ok());
}

#[test]
fn scope_and_address_are_checked_after_the_token() {
    let second = format!("Bearer {}", TOKENS[1]);
    for (settings, failure) in [
        (r#"{"scopes": []}"#, AuthFailure::Scope),
        (r#"{"allowed_addresses": ["10.0.0.0/8"]}"#, AuthFailure::Address),
    ] {
        let clients = clients(settings);
        assert_eq!(admit(&clients, &second), Err(Denied::Forbidden(failure)));
        assert!(admit(&clients, &format!("Bearer {}", TOKENS[0])).is_ok());
    }
    assert!(admit(&clients(r#"{"allowed_addresses": ["192.0.2.0/24"]}"#), &second).is_ok());
}

#[tokio::test(start_paused = true)]
async fn token_that_a_rotation_gives_to_two_clients_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TOKENS[1]).unwrap();
    let clients = clients(&serde_json::json!({"token": "", "token_file": file.path()}).to_string());
    let both = [0, 1].map(|n| format!("Bearer {}", TOKENS[n]));
    assert!(admit(&clients, &both[0]).is_ok() && admit(&clients, &both[1]).is_ok());
    std::fs::write(file.path(), TOKENS.join("\n")).unwrap();
    // A file that was changed a moment ago may be half written.
    file.as_file().set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..2 {
        assert_eq!(admit(&clients, &both[0]), Err(Denied::Unauthenticated(AuthFailure::Shared)));
    }
    let logged: Vec<_> = clients.shared.lock().unwrap().iter().cloned().collect();
    assert_eq!(logged, [(SHARED_TOKEN, "first".to_owned(), "second".to_owned())]);
    assert_eq!(admit(&clients, &both[1]).unwrap(), "second", "the other token is still valid");
}

#[test]
fn client_has_half_of_the_requests_in_progress_and_at_least_one() {
    let both = || [("first", config(TOKENS[0], "{}")), ("second", config(TOKENS[1], "{}"))];
    for (in_flight_max, share) in [(1, 1), (2, 1), (5, 2)] {
        let configured = both().map(|(name, config)| (name.to_owned(), config)).into();
        let clients = Clients::open(&configured, in_flight_max).unwrap();
        let taken: Vec<_> = (0..9).filter_map(|_| clients.all[0].begin()).collect();
        assert_eq!(taken.len(), share, "of {in_flight_max}");
        assert!(clients.all[1].begin().is_some(), "another client has its own share");
        drop(taken);
        assert!(clients.all[0].begin().is_some());
    }
}

#[test]
fn two_clients_with_one_token_are_refused() {
    let both = ["a", "b"].map(|name| (name.to_owned(), config(TOKENS[0], "{}")));
    let error = Clients::open(&both.into(), 5).unwrap_err().to_string();
    assert!(error.contains("ingress.clients.a and ingress.clients.b"), "{error}");
    assert!(!error.contains(TOKENS[0]));
}

const SECRETS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"];

/// Clients that only sign, with these settings of the second one.
fn signing(first: &str, second: &str, more: &str) -> Result<Clients, ClientsError> {
    let mut second = config("", &serde_json::json!({"signing_secret": second}).to_string());
    if let Ok(addresses) = serde_json::from_str(more) {
        second.allowed_addresses = addresses;
    }
    let first = config("", &serde_json::json!({"signing_secret": first}).to_string());
    let both = [("first", first), ("second", second)];
    Clients::open(&both.map(|(name, config)| (name.to_owned(), config)).into(), 64)
}

fn admit_signed(clients: &Clients, secret: &str, body: &str) -> Result<String, Denied> {
    let given = client_signatures::testing::signed(secret, "run-1", body);
    let address = "192.0.2.1".parse().unwrap();
    let client = clients.admit_signed(&given, body.as_bytes(), address, ClientScope::Start)?;
    Ok(client.name.clone())
}

#[test]
fn signature_identifies_its_client_and_its_address_is_checked() {
    let clients = signing(SECRETS[0], SECRETS[1], "").unwrap();
    assert!(clients.may_sign());
    for (secret, name) in SECRETS.into_iter().zip(["first", "second"]) {
        assert_eq!(admit_signed(&clients, secret, "{}").unwrap(), name);
    }
    let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx";
    assert_eq!(admit_signed(&clients, other, "{}"), Err(Denied::Unauthenticated(AuthFailure::Signature)));
    assert_eq!(admit(&clients, "Bearer "), Err(Denied::Unauthenticated(AuthFailure::Malformed)));
    let elsewhere = signing(SECRETS[0], SECRETS[1], r#"["10.0.0.0/8"]"#).unwrap();
    assert_eq!(admit_signed(&elsewhere, SECRETS[1], "{}"), Err(Denied::Forbidden(AuthFailure::Address)));
}

#[test]
fn two_clients_with_one_signing_secret_are_refused() {
    let error = signing(SECRETS[0], SECRETS[0], "").unwrap_err().to_string();
    assert!(error.contains("ingress.clients.first and ingress.clients.second"), "{error}");
    assert!(error.contains("expected different signing secrets") && !error.contains("MfKQ"), "{error}");
}

/// A rotation can also give one secret to two clients.
#[tokio::test(start_paused = true)]
async fn secret_that_a_rotation_gives_to_two_clients_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRETS[1]).unwrap();
    let rotating = serde_json::json!({"signing_secret_file": file.path()}).to_string();
    let fixed = serde_json::json!({"signing_secret": SECRETS[0]}).to_string();
    let both = [("first", config("", &fixed)), ("second", config("", &rotating))];
    let clients = Clients::open(&both.map(|(name, config)| (name.to_owned(), config)).into(), 64).unwrap();
    assert_eq!(admit_signed(&clients, SECRETS[1], "{}").unwrap(), "second");
    std::fs::write(file.path(), SECRETS.join("\n")).unwrap();
    file.as_file().set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let shared = Err(Denied::Unauthenticated(AuthFailure::Shared));
    assert_eq!(admit_signed(&clients, SECRETS[0], "{}"), shared);
    assert_eq!(admit_signed(&clients, SECRETS[1], "{}").unwrap(), "second");
}

//! Faults of Redis.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use instant_connect_worker::ledger::RedisUrl;
use secrecy::ExposeSecret;
use testkit::relay::{Flow, Relay};

use super::*;

fn place() -> Place {
    Place::Redis(RedisServer::start())
}

fn server(place: &mut Place) -> &mut RedisServer {
    let Place::Redis(server) = place else { panic!("not Redis") };
    server
}

#[tokio::test]
async fn redis_outage_is_an_error_until_redis_recovers() {
    let mut place = place();
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    server(&mut place).kill();
    for error in [ledger.ping().await.unwrap_err(), ledger.claim("l", BODY, LONG).await.unwrap_err()] {
        assert!(matches!(error, LedgerError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }
    server(&mut place).restart();
    ledger.ping().await.unwrap();
    // Redis lost the claim, but no other worker has claimed the key since, and the effect happened.
    finish(lease, b"r", later()).await.unwrap();
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

#[tokio::test]
async fn restart_between_two_calls_causes_no_error() {
    let mut place = place();
    let ledger = place.open().await;
    for _ in 0..3 {
        record(&ledger, "k", b"r").await;
        server(&mut place).kill();
        server(&mut place).restart();
    }
}

#[tokio::test]
async fn stalled_redis_is_an_error_within_the_time_limit() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://:hunter2@{}/", silent.local_addr().unwrap());
    let ledger = Ledger::open(LedgerKind::Redis { url: url.into(), prefix: String::new(), ca_file: None })
        .await
        .unwrap();
    let since = Instant::now();
    let calls = (0..5).map(|_| ledger.ping());
    for answer in futures_util::future::join_all(calls).await {
        let error = answer.unwrap_err();
        assert!(matches!(error, LedgerError::Slow { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2") && !format!("{ledger:?}").contains("hunter2"));
    }
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test]
async fn stalled_connection_is_replaced() {
    let place = place();
    let ledger = place.open().await;
    ledger.ping().await.unwrap();
    let Place::Redis(server) = &place else { panic!() };
    server.signal("STOP");
    let error = ledger.ping().await.unwrap_err();
    assert!(matches!(error, LedgerError::Slow { .. }), "{error}");
    server.signal("CONT");
    ledger.ping().await.unwrap();
}

/// Each caller has its own time limit. The attempt to connect is shared, and does not start again for each of them.
#[tokio::test]
async fn caller_that_gives_up_does_not_end_the_attempt_to_connect() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let relay = Relay::start(format!("127.0.0.1:{}", server.port())).await;
    let url = format!("redis://{}/", relay.address());
    let ledger = Ledger::open(LedgerKind::Redis { url: url.into(), prefix: String::new(), ca_file: None })
        .await
        .unwrap();
    relay.set(Flow::Stall, Flow::Stall);
    let first = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.ping().await })
    };
    relay.until_accepted(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let (second, ()) = tokio::join!(ledger.ping(), async { relay.heal() });
    second.unwrap();
    assert_eq!(relay.accepted(), 1);
}

#[tokio::test]
async fn refused_write_is_an_error_and_keeps_the_connection() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let ledger = place.open().await;
    let lease = mine(&ledger, "k").await;
    let mut connection = server.connect();
    ::redis::cmd("CONFIG").arg(&["SET", "min-replicas-to-write", "1"]).exec(&mut connection).unwrap();
    let mut connections = || {
        let stats: String = ::redis::cmd("INFO").arg("stats").query(&mut connection).unwrap();
        stats.lines().find(|line| line.starts_with("total_connections_received:")).map(str::to_owned)
    };
    let before = connections();
    let error = finish(lease, b"r", later()).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused { .. }), "{error}");
    assert!(before.is_some());
    assert_eq!(connections(), before);
}

#[tokio::test]
async fn server_info_is_available() {
    let said = place().open().await.info().await.unwrap();
    assert!(said.is_some_and(|said| said.contains("redis_version:")));
    assert_eq!(Place::Memory.open().await.info().await, Ok(None));
}

#[tokio::test]
async fn two_processes_exclude_each_other() {
    let place = place();
    let (one, other) = (place.open().await, place.open().await);
    let lease = mine(&one, "k").await;
    assert!(matches!(other.claim("k", BODY, Duration::ZERO).await.unwrap(), Claim::Busy));
    assert!(matches!(other.claim("k", OTHER_BODY, LONG).await.unwrap(), Claim::Conflict));
    let (result, done) = tokio::join!(recorded(&other, "k"), finish(lease, b"r", later()));
    done.unwrap();
    assert_eq!(result, b"r");

    let mut lease = mine(&one, "noted").await;
    lease.write_note(b"n", later()).await.unwrap();
    let (theirs, ()) = tokio::join!(mine(&other, "noted"), async { drop(lease) });
    assert_eq!(theirs.note(), Some(&b"n"[..]));
}

#[tokio::test]
async fn ended_lease_cannot_overwrite_a_newer_claim() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let (one, other) = (place.open().await, place.open().await);
    let mut late = mine(&one, "k").await;
    server.end_leases();
    let theirs = mine(&other, "k").await;
    assert_eq!(late.write_note(b"late", later()).await, Err(LedgerError::Lost));
    finish(theirs, b"theirs", later()).await.unwrap();
    assert_eq!(finish(late, b"late", later()).await, Err(LedgerError::Lost));
    assert_eq!(recorded(&one, "k").await, b"theirs");

    let late = mine(&one, "l").await;
    server.end_leases();
    let theirs = mine(&other, "l").await;
    late.release().await.unwrap();
    let third = place.open().await;
    let claim = third.claim("l", BODY, Duration::ZERO).await.unwrap();
    assert!(matches!(claim, Claim::Busy), "a late release must not end another claim: {claim:?}");
    theirs.release().await.unwrap();
}

#[tokio::test]
async fn ended_lease_still_works_without_a_newer_claim() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let ledger = place.open().await;
    let mut lease = mine(&ledger, "k").await;
    server.end_leases();
    lease.write_note(b"n", later()).await.unwrap();
    server.end_leases();
    finish(lease, b"r", later()).await.unwrap();
    assert_eq!(recorded(&ledger, "k").await, b"r");
}

#[tokio::test]
async fn claim_is_renewed_while_it_is_held() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let ledger = place.open().await;
    let _lease = mine(&ledger, "k").await;
    let mut connection = server.connect();
    let mut until = || -> i64 {
        ::redis::cmd("HGET").arg("icw:test:k").arg("lease_until").query(&mut connection).unwrap()
    };
    let before = until();
    // This is the only test that waits for time: renewal runs every ten seconds on Redis' clock and ours.
    let since = Instant::now();
    while until() == before {
        assert!(since.elapsed() < Duration::from_secs(15), "not renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The renewal was on its way when its claim ended.
#[tokio::test]
async fn late_renewal_does_not_restore_an_ended_claim() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let script = ::redis::Script::new(include_str!("../../src/ledger/redis/entry.lua"));
    let mut connection = server.connect();
    let mut run = |op: &str| -> Vec<String> {
        let mut call = script.key("icw:test:k");
        // Arguments: token, fingerprint, lease, expiry, value.
        call.arg(op).arg("token").arg(&BODY).arg(30_000).arg(later().as_millisecond()).arg("n");
        call.invoke(&mut connection).unwrap()
    };
    let ledger = place.open().await;
    for (steps, left) in [(&["claim", "release"][..], None), (&["claim", "note", "abandon"][..], Some("n"))] {
        for op in steps {
            assert_ne!(run(op), ["lost"], "{op}");
        }
        assert_eq!(run("renew"), ["lost"], "{steps:?}");
        let claim = ledger.claim("k", BODY, Duration::ZERO).await.unwrap();
        let Claim::Mine(lease) = claim else { panic!("{steps:?}: {claim:?}") };
        assert_eq!(lease.note(), left.map(str::as_bytes));
        assert_eq!(run("renew"), ["lost"], "another holder's claim");
        lease.release().await.unwrap();
    }
    run("claim");
    assert_eq!(run("renew"), ["ok"]);
}

/// The writer was suspended until its claim ended. Meanwhile another claim wrote a note and ended.
#[tokio::test]
async fn late_note_does_not_overwrite_the_note_of_another_claim() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let script = ::redis::Script::new(include_str!("../../src/ledger/redis/entry.lua"));
    let mut connection = server.connect();
    let mut run = |op: &str, token: &str| -> Vec<String> {
        let mut call = script.key("icw:test:k");
        // A lease of zero length ends at once.
        let lease = if token == "slept" { 0 } else { 30_000 };
        call.arg(op).arg(token).arg(&BODY).arg(lease).arg(later().as_millisecond()).arg(token);
        call.invoke(&mut connection).unwrap()
    };
    assert_eq!(run("claim", "slept"), ["free"]);
    assert_eq!(run("note", "slept"), ["ok"], "no other claim was made");
    assert_eq!(run("claim", "other"), ["free", "slept"]);
    assert_eq!(run("note", "other"), ["ok"]);
    assert_eq!(run("note", "slept"), ["lost"], "while the other claim is held");
    assert_eq!(run("abandon", "other"), ["ok"]);
    assert_eq!(run("note", "slept"), ["lost"], "after the other claim ended");
    assert_eq!(run("claim", "next"), ["free", "other"]);
}

#[tokio::test]
async fn all_keys_have_the_prefix_and_an_expiry() {
    let place = place();
    let Place::Redis(server) = &place else { panic!() };
    let ledger = place.open().await;
    record(&ledger, "recorded", b"r").await;
    let mut lease = mine(&ledger, "noted").await;
    lease.write_note(b"n", later()).await.unwrap();
    let _held = mine(&ledger, "held").await;
    let mut connection = server.connect();
    let mut keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    keys.sort();
    assert_eq!(keys, ["icw:test:held", "icw:test:noted", "icw:test:recorded"]);
    for (key, at_least, at_most) in
        [(0, 20_000, 30_000), (1, 3_500_000, 3_600_000), (2, 3_500_000, 3_600_000)]
    {
        let ttl: i64 = ::redis::cmd("PTTL").arg(&keys[key]).query(&mut connection).unwrap();
        assert!((at_least..=at_most).contains(&ttl), "{} ends in {ttl} ms", keys[key]);
    }
}

#[tokio::test]
async fn url_file_is_read_at_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    let write = |url: &str| std::fs::write(&path, format!("{url}\n")).unwrap();
    let first = RedisServer::start();
    write(first.url().expose_secret());
    let url = RedisUrl::File { path: path.clone(), allow_insecure: false };
    let ledger = Ledger::open(LedgerKind::Redis { url, prefix: String::new(), ca_file: None }).await.unwrap();
    ledger.ping().await.unwrap();
    write("redis://:hunter2@redis.example.com/");
    drop(first);
    let error = ledger.ping().await.unwrap_err().to_string();
    assert!(error.contains("ledger.url_file") && error.contains("expected rediss://"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let second = RedisServer::start();
    write(second.url().expose_secret());
    ledger.ping().await.unwrap();
}

#[tokio::test]
async fn connection_to_a_replica_is_replaced_by_the_current_url() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    let (old, new) = (RedisServer::start(), RedisServer::start());
    std::fs::write(&path, old.url().expose_secret()).unwrap();
    let url = RedisUrl::File { path: path.clone(), allow_insecure: false };
    let ledger = Ledger::open(LedgerKind::Redis { url, prefix: String::new(), ca_file: None }).await.unwrap();
    record(&ledger, "before", b"r").await;
    // The connection stays open, as in a manual failover.
    let replica_of = ["127.0.0.1".to_owned(), new.port().to_string()];
    ::redis::cmd("REPLICAOF").arg(&replica_of).exec(&mut old.connect()).unwrap();
    let refused = ledger.claim("k", BODY, LONG).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Refused { .. }), "{refused}");
    std::fs::write(&path, new.url().expose_secret()).unwrap();
    record(&ledger, "k", b"r").await;
}

#[tokio::test]
async fn invalid_url_is_an_error_without_the_url() {
    for url in ["", "http://hunter2@host/", "redis://:hunter2@host:port/", "hunter2"] {
        let kind = LedgerKind::Redis { url: url.into(), prefix: String::new(), ca_file: None };
        let error = Ledger::open(kind).await.unwrap_err();
        assert!(matches!(error, LedgerError::Url { .. }), "{url}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

/// Starts a TLS proxy with a certificate from its own CA. Returns its address and the CA as PEM.
async fn tls_in_front_of(server: &RedisServer) -> (std::net::SocketAddr, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, port) = (listener.local_addr().unwrap(), server.port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
                tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok()
            });
        }
    });
    (address, ca.pem())
}

#[tokio::test]
async fn redis_with_a_private_ca_works_with_tls_ca_file() {
    let (folder, server) = (tempfile::tempdir().unwrap(), RedisServer::start());
    let (address, ca) = tls_in_front_of(&server).await;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let open = async |scheme: &str, ca_file: Option<PathBuf>| {
        let kind = LedgerKind::Redis {
            url: format!("{scheme}://{address}/").into(),
            prefix: String::new(),
            ca_file,
        };
        Ledger::open(kind).await.unwrap()
    };
    let untrusted = open("rediss", None).await.claim("k", BODY, LONG).await.unwrap_err().to_string();
    assert!(untrusted.contains("the server's certificate has an unknown issuer"), "{untrusted}");
    let plain = open("redis", None).await.claim("k", BODY, LONG).await.unwrap_err();
    assert!(matches!(plain, LedgerError::Unreachable { .. } | LedgerError::Refused { .. }), "{plain}");
    record(&open("rediss", Some(ca_file)).await, "k", b"r").await;
}

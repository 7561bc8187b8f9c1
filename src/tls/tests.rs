use std::{fs, io, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::endpoint::Obstacle;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name` and its key, both in PEM format.
fn issued(ca: &Ca, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

/// One handshake with a server that has this certificate. If `clients` is given, the server requires a client
/// certificate of that CA.
async fn handshake(
    files: &Files,
    (certificate, key): &(String, String),
    clients: Option<&Ca>,
) -> io::Result<()> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        use tokio::io::AsyncWriteExt;
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    };
    let client = async {
        use tokio::io::AsyncReadExt;
        let connector = TlsConnector::from(Arc::new(files.config().map_err(io::Error::other)?));
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, TcpStream::connect(address).await?).await?;
        // With TLS 1.3, the client learns only here if its certificate was accepted.
        stream.read_u8().await.map(drop)
    };
    let (_, client) = tokio::join!(server, client);
    client
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

async fn obstacle(files: &Files, server: &(String, String), clients: Option<&Ca>) -> Obstacle {
    Obstacle::of(&handshake(files, server, clients).await.unwrap_err())
}

#[tokio::test]
async fn ca_file_is_trusted_and_read_again_when_it_changes() {
    let (folder, old, new) = (TempDir::new().unwrap(), ca(), ca());
    let (by_old, by_new) = (issued(&old, "localhost", |_| ()), issued(&new, "localhost", |_| ()));
    assert_eq!(obstacle(&Files::default(), &by_old, None).await, Obstacle::UnknownIssuer);
    let path = write(folder.path(), "ca.pem", &old.pem());
    let files = Files { ca: Some(path), client: None };
    let verifier = Verifier::new(files.ca.clone(), provider()).unwrap();
    let trusts = |server: &(String, String)| {
        use rustls::{client::danger::ServerCertVerifier, pki_types::UnixTime};
        let certificate = CertificateDer::from_pem_slice(server.0.as_bytes()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).is_ok()
    };
    handshake(&files, &by_old, None).await.unwrap();
    assert!(trusts(&by_old) && !trusts(&by_new));
    write(folder.path(), "ca.pem", &(old.pem() + &new.pem()));
    assert!(trusts(&by_old) && trusts(&by_new));
    write(folder.path(), "ca.pem", &new.pem());
    assert!(!trusts(&by_old) && trusts(&by_new));
    // A truncated file: the last usable content stays in use.
    write(folder.path(), "ca.pem", &old.pem()[..100]);
    assert!(trusts(&by_new));
    fs::remove_file(folder.path().join("ca.pem")).unwrap();
    assert!(trusts(&by_new));
    write(folder.path(), "ca.pem", &old.pem());
    assert!(trusts(&by_old) && !trusts(&by_new));
}

#[test]
fn connections_keep_the_last_usable_files() {
    let (folder, ca) = (TempDir::new().unwrap(), ca());
    let (certificate, key) = issued(&ca, "worker", |_| ());
    let path = |name: &str| folder.path().join(name);
    let connections = Connections::new(Files {
        ca: Some(path("ca.pem")),
        client: Some(ClientFiles { certificate: path("one.pem"), key: path("one.key") }),
    });
    assert!(connections.config().is_err(), "there are no files yet");
    let files = [("ca.pem", ca.pem()), ("one.pem", certificate), ("one.key", key)];
    for (name, text) in &files {
        write(folder.path(), name, text);
    }
    let shown =
        |config: &ClientConfig| config.client_auth_cert_resolver.resolve(&[], &[]).unwrap().cert.clone();
    let before = shown(&connections.config().unwrap());
    for (name, _) in &files {
        fs::remove_file(path(name)).unwrap();
    }
    assert_eq!(shown(&connections.config().unwrap()), before);
}

#[tokio::test]
async fn unusable_server_certificate_is_reported_by_cause() {
    let (folder, ca) = (TempDir::new().unwrap(), ca());
    let files = Files { ca: Some(write(folder.path(), "ca.pem", &ca.pem())), client: None };
    let expired = issued(&ca, "localhost", |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let early = issued(&ca, "localhost", |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    });
    let as_server = (ca.pem(), ca.key().serialize_pem());
    for (server, expected) in [
        (expired, Obstacle::Expired),
        (early, Obstacle::NotYetValid),
        (issued(&ca, "another.example", |_| ()), Obstacle::WrongName),
        (as_server, Obstacle::IssuerAsServer),
    ] {
        assert_eq!(obstacle(&files, &server, None).await, expected);
    }
}

#[tokio::test]
async fn client_certificate_is_presented_and_a_missing_one_is_reported() {
    let (folder, ca, stranger) = (TempDir::new().unwrap(), ca(), ca());
    let server = issued(&ca, "localhost", |_| ());
    let ca_file = Some(write(folder.path(), "ca.pem", &ca.pem()));
    let shown = |name: &str, (certificate, key): &(String, String)| Files {
        ca: ca_file.clone(),
        client: Some(ClientFiles {
            certificate: write(folder.path(), &format!("{name}.pem"), certificate),
            key: write(folder.path(), &format!("{name}.key"), key),
        }),
    };
    let (ours, theirs) = (issued(&ca, "worker", |_| ()), issued(&stranger, "worker", |_| ()));
    handshake(&shown("ours", &ours), &server, Some(&ca)).await.unwrap();
    let none = Files { ca: ca_file.clone(), client: None };
    assert_eq!(obstacle(&none, &server, Some(&ca)).await, Obstacle::ClientCertificateMissing);
    let theirs = shown("theirs", &theirs);
    assert_eq!(obstacle(&theirs, &server, Some(&ca)).await, Obstacle::ClientCertificateRefused);

    // The files are read again for each handshake.
    let files = theirs.client.as_ref().unwrap();
    let resolver = PresentedCertificate::new(files.clone(), provider()).unwrap();
    let before = resolver.resolve(&[], &[]).unwrap().cert.clone();
    shown("theirs", &ours);
    assert_ne!(resolver.resolve(&[], &[]).unwrap().cert, before);
}

#[test]
fn unusable_file_is_an_error_with_the_expected_content() {
    let (folder, ca) = (TempDir::new().unwrap(), ca());
    let (one, another) = (issued(&ca, "one", |_| ()), issued(&ca, "another", |_| ()));
    let ca_problem = |text: &str| {
        let path = write(folder.path(), "ca.pem", text);
        Files { ca: Some(path), client: None }.check().unwrap_err().problem
    };
    assert!(ca_problem("").contains("-----BEGIN CERTIFICATE-----"));
    assert!(ca_problem(&one.1).contains("there is none"), "a key is not a certificate");
    assert!(ca_problem("-----BEGIN CERTIFICATE-----\neHh4\n-----END CERTIFICATE-----\n").contains("X.509"));
    let certificate = write(folder.path(), "one.pem", &one.0);
    let key_problem = |text: &str| {
        let client =
            ClientFiles { certificate: certificate.clone(), key: write(folder.path(), "key.pem", text) };
        Files { ca: None, client: Some(client) }.check().unwrap_err().problem
    };
    assert!(key_problem("").contains("private key"));
    assert!(key_problem(&another.1).contains("does not match the certificate"));
    let missing = Files { ca: Some(folder.path().join("missing")), client: None }.check().unwrap_err();
    assert!(missing.to_string().ends_with("missing: entity not found"), "{missing}");
}

//! TLS to a broker with a certificate from a private CA, and login by client certificate.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};

use testkit::{Rig, free_port, poll};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for `name` and its key to `folder`.
fn issue(ca: &Ca, folder: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, ca).unwrap().pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Restarts the rig's broker with a TLS listener that accepts client certificates. Returns the address.
async fn with_tls(rig: &Rig, ca: &Ca, host: &str) -> String {
    let folder = rig.broker().folder();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    issue(ca, folder, host);
    issue(ca, folder, "worker");
    let port = free_port();
    let shown = folder.display();
    let settings = format!(
        "listeners.ssl.1 = {host}:{port}\n\
         ssl_options.cacertfile = {shown}/ca.pem\n\
         ssl_options.certfile = {shown}/{host}.pem\n\
         ssl_options.keyfile = {shown}/{host}.key\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = false\n\
         auth_mechanisms.1 = PLAIN\n\
         auth_mechanisms.2 = EXTERNAL\n\
         ssl_cert_login_from = common_name\n"
    );
    fs::write(folder.join("more.conf"), settings).unwrap();
    fs::write(folder.join("plugins"), "rabbitmq_auth_mechanism_ssl").unwrap();
    rig.broker().restart().await;
    rig.broker().ctl(&["add_user", "worker", "unused-password"]).await;
    rig.broker().ctl(&["set_permissions", "worker", ".*", ".*", ".*"]).await;
    format!("{host}:{port}")
}

#[tokio::test]
async fn private_ca_and_client_certificate_connect_to_the_broker() {
    let mut rig = Rig::private().await;
    let ca = ca();
    let address = with_tls(&rig, &ca, "127.0.0.1").await;
    rig.amqp = rig.reconnect().await;
    let folder = rig.broker().folder();
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (by_password, by_certificate) =
        (format!("amqps://guest:guest@{address}/"), format!("amqps://{address}/"));
    let (ca_file, certificate, key) = (file("ca.pem"), file("worker.pem"), file("worker.key"));

    let found = async |settings: &[(&str, &str)], what: &str| {
        let report = rig.command(&["check", "--connect", "--json"], settings).await.json();
        let findings = report["findings"].as_array().unwrap().clone();
        findings
            .into_iter()
            .find(|finding| finding["what"] == what)
            .unwrap_or_else(|| panic!("{what}: {report:#}"))
    };
    let untrusted = found(&[("amqp.url", &by_password)], "broker").await;
    assert_eq!(untrusted["detail"], "connect: the server's certificate has an unknown issuer");
    assert!(untrusted["advice"].as_str().unwrap().contains("tls.ca_file"), "{untrusted}");
    let plain = found(&[("amqp.url", &by_password.replace("amqps", "amqp"))], "broker").await;
    assert!(plain["detail"].as_str().unwrap().contains("TLS"), "{plain}");
    let tls_to_plain = format!("amqps://guest:guest@{}/", rig.broker().address());
    let to_plain = found(&[("amqp.url", &tls_to_plain), ("tls.ca_file", &ca_file)], "broker").await;
    assert_eq!(to_plain["detail"], "connect: the peer does not speak TLS");

    let trusting = [("amqp.url", by_password.as_str()), ("tls.ca_file", &ca_file)];
    assert_eq!(found(&trusting, "broker").await["result"], "pass");
    assert_eq!(found(&trusting, "broker, version").await["result"], "pass");
    let program = rig.start(&trusting).await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    program.stop().await;

    let external = [
        ("amqp.url", by_certificate.as_str()),
        ("tls.ca_file", &ca_file),
        ("amqp.auth", "external"),
        ("amqp.client_cert_file", &certificate),
        ("amqp.client_key_file", &key),
    ];
    let dates = found(&external, &format!("amqp.client_cert_file {certificate}")).await;
    assert_eq!(dates["result"], "pass", "{dates}");
    assert!(dates["detail"].as_str().unwrap().contains(" expires on "), "{dates}");
    let dates = found(&external, &format!("tls.ca_file {ca_file}")).await;
    assert!(dates["detail"].as_str().unwrap().contains(" expires on "), "{dates}");
    let program = rig.start(&external).await;
    rig.publish(2).await;
    rig.until_experts_have(2).await;
    // The broker may still list the connections of the last check.
    poll("the worker's three connections alone", async || {
        let listed = rig.broker().ctl(&["list_connections", "user", "auth_mechanism", "ssl"]).await;
        (listed.lines().filter(|line| *line == "worker\tEXTERNAL\ttrue").count() == 3).then_some(())
    })
    .await;
    program.stop().await;
}

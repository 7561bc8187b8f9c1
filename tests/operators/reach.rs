//! Reasons why an API is not reachable: each cause is named, and the proxy if there is one.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use testkit::{
    Rig, free_port,
    https::Https,
    program::{self, Environment, Finished},
};

/// Runs `check --connect` with Webex at `url`. Returns result, detail and advice of the token's finding.
async fn tried(rig: &Rig, url: &str, settings: &[(&str, &str)], more: &[(&str, &str)]) -> [String; 3] {
    let at = [("hosts.webex_url", url), ("instant_connect.url", url)];
    let environment = with(rig.environment(&[&at, settings].concat()), more);
    let finished = program::finished(&["check", "--connect", "--json"], &environment).await;
    assert!(!format!("{finished:?}").contains("s3cret"), "{finished:?}");
    let report = finished.json();
    let findings = report["findings"].as_array().unwrap();
    let found =
        findings.iter().find(|finding| finding["what"] == "token of Webex Messages at Webex").unwrap();
    ["result", "detail", "advice"].map(|part| found[part].as_str().unwrap_or_default().to_owned())
}

fn with(mut environment: Environment, more: &[(&str, &str)]) -> Environment {
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

fn sandbox(rig: &Rig) -> String {
    let environment = rig.environment(&[]);
    environment.into_iter().find(|(name, _)| name == "ICW_INSTANT_CONNECT__URL").unwrap().1
}

/// A copy of `file` that outlives the rig, which runs the program with the worker's settings at its end.
fn copied(file: &str, folder: &tempfile::TempDir) -> String {
    let copy = folder.path().join("ca.pem");
    std::fs::copy(file, &copy).unwrap();
    copy.to_str().unwrap().to_owned()
}

/// Starts a proxy that answers every request with `status`.
async fn proxy(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // A client that has disconnected needs no response.
            _ = stream.read(&mut request).await;
            _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn check_names_the_cause_of_a_failed_webex_connection() {
    let rig = Rig::new().await;
    let https = Https::in_front_of(sandbox(&rig), 2050).await;
    let expired = Https::in_front_of(sandbox(&rig), 2020).await;
    let refused = format!("https://127.0.0.1:{}", free_port());
    let no_tls = sandbox(&rig).replace("http://", "https://");
    let other_name = https.url.replace("localhost", "127.0.0.1");
    let (ca, expired_ca) = (https.ca_file(), expired.ca_file());
    for (url, ca_file, cause) in [
        ("https://nowhere.invalid", &ca, "the name does not resolve"),
        (&refused, &ca, "connection refused"),
        (&https.url, &expired_ca, "unknown issuer"),
        (&expired.url, &expired_ca, "certificate has expired"),
        (&other_name, &ca, "certificate is for another name"),
        (&no_tls, &ca, "does not speak TLS"),
    ] {
        let [result, detail, advice] = tried(&rig, url, &[("tls.ca_file", ca_file)], &[]).await;
        assert_eq!(result, "fail", "{url}: {detail}");
        assert!(detail.contains("no connection: ") && detail.contains(cause), "{url}: {detail}");
        assert!(advice.contains("tls.ca_file"), "{advice}");
    }
    let [result, detail, _] = tried(&rig, &https.url, &[("tls.ca_file", &ca)], &[]).await;
    assert_eq!(result, "pass", "{detail}");
}

/// Webex has a public certificate, and a proxy or the broker one of the hospital: both have to be trusted at once.
#[tokio::test]
async fn private_ca_is_trusted_in_addition_to_the_system_cas() {
    let kept = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let public = Https::in_front_of(sandbox(&rig), 2050).await;
    let private = Https::in_front_of(sandbox(&rig), 2050).await;
    let (system, ca_file) = (public.ca_file(), copied(&private.ca_file(), &kept));
    let trusted = [("tls.ca_file", ca_file.as_str())];
    let system = [("SSL_CERT_FILE", system.as_str())];
    for url in [&public.url, &private.url] {
        let [result, detail, _] = tried(&rig, url, &trusted, &system).await;
        assert_eq!(result, "pass", "{url}: {detail}");
    }
    let [result, detail, _] = tried(&rig, &private.url, &[], &system).await;
    assert!(result == "fail" && detail.contains("unknown issuer"), "{result}: {detail}");
    let urls = [("instant_connect.url", public.url.as_str()), ("hosts.webex_url", &private.url)];
    let worker = rig.launch_with(with(rig.environment(&[&urls[..], &trusted].concat()), &system));
    worker.output.until("connected to broker; consuming", 2).await;
    rig.publish(1).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn worker_logs_the_cause_of_a_failed_webex_connection() {
    let kept = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let https = Https::in_front_of(sandbox(&rig), 2050).await;
    let (ca_file, down) = (copied(&https.ca_file(), &kept), free_port());
    let settings = [
        ("instant_connect.url", https.url.as_str()),
        ("hosts.webex_url", &https.url),
        ("tls.ca_file", &ca_file),
    ];
    let proxy = format!("http://user:s3cret@127.0.0.1:{down}");
    let worker = rig.launch_with(with(rig.environment(&settings), &[("HTTPS_PROXY", &proxy)]));
    worker.output.until("connected to broker; consuming", 2).await;
    rig.publish(1).await;
    worker.output.until(&format!("no connection to the proxy (through the proxy 127.0.0.1:{down})"), 1).await;
    assert!(!worker.output.text().contains("s3cret"));
    worker.stop().await;
}

#[tokio::test]
async fn check_names_the_proxy_that_prevents_the_connection() {
    let rig = Rig::new().await;
    let https = Https::in_front_of(sandbox(&rig), 2050).await;
    let ca_file = https.ca_file();
    let settings = [("tls.ca_file", ca_file.as_str())];
    let down = free_port();
    for (port, cause) in [
        (proxy("403 Forbidden").await, "the proxy refused the connection"),
        (proxy("502 Bad Gateway").await, "the proxy refused the connection"),
        (proxy("407 Proxy Authentication Required").await, "the proxy requires a user and a password"),
        (down, "no connection to the proxy"),
    ] {
        let proxy = format!("http://user:s3cret@127.0.0.1:{port}");
        let [result, detail, _] = tried(&rig, &https.url, &settings, &[("HTTPS_PROXY", &proxy)]).await;
        assert_eq!(result, "fail", "{detail}");
        assert!(
            detail.contains(cause) && detail.contains(&format!("the proxy 127.0.0.1:{port}")),
            "{detail}"
        );
    }
    // An exception for this port only.
    let (host, proxy) = (https.url.replace("https://", ""), format!("http://127.0.0.1:{down}"));
    for (exception, expected) in [(host.as_str(), "pass"), ("localhost:1", "fail")] {
        let more = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", exception)];
        let [result, detail, _] = tried(&rig, &https.url, &settings, &more).await;
        assert_eq!(result, expected, "{exception}: {detail}");
    }
}

#[tokio::test]
async fn unusable_proxy_setting_exits_2_in_run_and_check() {
    let rig = Rig::new().await;
    let start = async |arguments: &[&str], name: &str, value: &str| -> Finished {
        program::finished(arguments, &with(rig.environment(&[]), &[(name, value)])).await
    };
    for (name, value) in [
        ("HTTPS_PROXY", "\"http://user:s3cret@proxy.example:3128\""),
        ("https_proxy", "http://user:s3cret@proxy.example:3128\n"),
        ("HTTPS_PROXY", "socks5://user:s3cret@proxy.example:1080"),
        ("ALL_PROXY", "socks5h://user:s3cret@proxy.example:1080"),
    ] {
        for arguments in [&["run"][..], &["check"], &["check", "--connect", "--json"]] {
            let ended = start(arguments, name, value).await;
            assert_eq!(ended.status, Some(2), "{arguments:?} {name}: {ended:?}");
            let said = [ended.stderr, ended.stdout].concat();
            assert!(said.contains(&format!("environment {name}: ")) && !said.contains("s3cret"), "{said}");
        }
    }
    // Commands that call no API are not affected.
    let ended = start(&["topology", "--json"], "ALL_PROXY", "socks5h://proxy.example").await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let _: Value = start(&["check", "--json"], "HTTPS_PROXY", "http://proxy.example:3128").await.json();
}

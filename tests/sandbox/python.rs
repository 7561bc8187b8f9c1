//! Third-party readers and clients: `jwcrypto` and Cisco's community SDK `webexpythonsdk`.

use instant_connect_sandbox::Endpoint;

use super::{PASSWORD, Served, TOKEN, serve};
use testkit::python::python;

/// Runs a script against the sandbox.
async fn run(served: &Served, script: &str) -> String {
    python(script, &[served.url.as_str(), TOKEN, PASSWORD]).await
}

#[tokio::test]
async fn jwcrypto_opens_all_ciphers_of_the_guide() {
    let served = serve().await;
    assert_eq!(run(&served, "jose_open.py").await, "opened 118 ciphers of 56 calls\n");
    assert_eq!(served.handle.calls().len(), 56);
}

#[tokio::test]
async fn webex_sdk_posts_and_reads_a_card_and_waits_for_a_rate_limit() {
    let served = serve().await;
    served.handle.fault("messages:status=429,retry-after=2,times=1".parse().unwrap());
    assert_eq!(run(&served, "webex_client.py").await, "ok\n");
    let arrivals = served.handle.arrivals(Endpoint::Messages);
    assert!(arrivals[1].at - arrivals[0].at >= std::time::Duration::from_secs(2));
}

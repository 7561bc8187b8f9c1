//! Readers and clients that other people wrote: `jwcrypto` and Cisco's community SDK `webexpythonsdk`.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use instant_connect_worker::sandbox::Endpoint;
use tokio::task::spawn_blocking;

use super::{PASSWORD, Served, TOKEN, serve};

/// Runs a script of `tests/python` against the sandbox. A missing Python fails the test: it must never pass unseen.
async fn run(served: &Served, script: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = env::var_os("ICW_TEST_PYTHON").map_or_else(|| root.join(".venv/bin/python3"), PathBuf::from);
    let mut command = Command::new(&python);
    command.arg(root.join("tests/python").join(script)).args([served.url.as_str(), TOKEN, PASSWORD]);
    let output = spawn_blocking(move || command.stdin(Stdio::null()).output()).await.unwrap();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{} cannot be run ({error}): run `make test`, which makes it, or set ICW_TEST_PYTHON",
            python.display()
        )
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: if a module is missing, run `make test`\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn jwcrypto_opens_every_cipher_that_the_guide_allows() {
    let served = serve().await;
    assert_eq!(run(&served, "jose_open.py").await, "opened 118 ciphers of 56 calls\n");
    assert_eq!(served.handle.calls().len(), 56);
}

#[tokio::test]
async fn ciscos_sdk_posts_a_card_reads_it_back_and_waits_out_a_rate_limit() {
    let served = serve().await;
    served.handle.fault("messages:status=429,retry-after=2,times=1".parse().unwrap());
    assert_eq!(run(&served, "webex_client.py").await, "ok\n");
    let arrivals = served.handle.arrivals(Endpoint::Messages);
    assert!(arrivals[1].at - arrivals[0].at >= std::time::Duration::from_secs(2));
}

//! Failures while a connection is established: peers that are silent, that are not a broker, or that echo secrets.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use testkit::{Rig, admin::Admin, poll, program::Program, soon};

/// Opens a listener on a free port. Returns it with its URL.
async fn peer(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://guest:guest@{}/%2f", listener.local_addr().unwrap());
    (listener, url)
}

/// The numbers of threads and file descriptors of the program.
fn threads_and_files(program: &Program) -> (usize, usize) {
    let count = |what| std::fs::read_dir(format!("/proc/{}/{what}", program.id())).unwrap().count();
    (count("task"), count("fd"))
}

/// Accepts `count` connections and keeps them open.
async fn accept(listener: &TcpListener, count: usize, kept: &mut Vec<TcpStream>) {
    let accepted = async {
        for _ in 0..count {
            kept.push(listener.accept().await.unwrap().0);
        }
    };
    soon(&format!("{count} connections"), accepted).await;
}

#[tokio::test]
async fn silent_peer_leaks_no_threads_and_no_sockets() {
    let rig = Rig::new().await;
    for scheme in ["amqp", "amqps"] {
        let (listener, url) = peer(scheme).await;
        let settings = [
            ("amqp.url", url.as_str()),
            ("amqp.connect_timeout", "50ms"),
            ("amqp.reconnect_max", "1ms"),
            ("ledger.kind", "memory"),
        ];
        let program = rig.launch(&settings);
        let mut kept = Vec::new();
        accept(&listener, 30, &mut kept).await;
        let before = threads_and_files(&program);
        accept(&listener, 200, &mut kept).await;
        // Three connections are attempted at the same time, each with a thread and a socket.
        let flat = |(threads, files): (usize, usize)| threads <= before.0 + 6 && files <= before.1 + 6;
        poll("a stable number of threads and descriptors", async || {
            flat(threads_and_files(&program)).then_some(())
        })
        .await;
        program.stop().await;
    }
}

#[tokio::test]
async fn peer_that_is_not_a_broker_is_named_and_retried_with_backoff() {
    let rig = Rig::new().await;
    let (listener, url) = peer("amqp").await;
    let program = rig.launch(&[("amqp.url", &url), ("amqp.reconnect_max", "5s")]);
    let begun = Instant::now();
    let answered = async {
        let mut peers = JoinSet::new();
        for _ in 0..21 {
            let (mut stream, _) = listener.accept().await.unwrap();
            peers.spawn(async move {
                _ = stream.read(&mut [0; 8]).await;
                // The alert that a TLS port sends to a client without TLS.
                _ = stream.write_all(b"\x15\x03\x03\0\x02\x02\x0a").await;
            });
        }
    };
    soon("21 connections", answered).await;
    // Seven attempts of each of three connections. The delays are 0.1, 0.2, 0.4, 0.8, 1.6 and 3.2 s, or at least half
    // of that.
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    program.output.until("the peer speaks TLS: write amqps://", 3).await;
    for said in program.output.logged("could not connect to broker; retrying") {
        assert!(said["error"].as_str().unwrap().contains("write amqps://"), "{said}");
    }
    drop(listener);
    program.stop().await;
}

#[tokio::test]
async fn readyz_shows_the_current_reason_for_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::new().await;
    let file = folder.path().join("url");
    let (gone, url) = peer("amqp").await;
    drop(gone);
    std::fs::write(&file, format!("{url}\n")).unwrap();
    let program = rig.launch(&[
        ("amqp.url", ""),
        ("amqp.url_file", file.to_str().unwrap()),
        ("amqp.reconnect_max", "100ms"),
    ]);
    let admin = Admin::of(&program).await;
    let until = async |why: &str| {
        poll(why, async || {
            let (status, body) = admin.get("/readyz").await;
            assert_eq!(status, 503);
            (body.matches(why).count() == 3).then_some(())
        })
        .await;
    };
    until("not connected to the broker: connect: connection refused").await;
    std::fs::write(&file, "amqp://guest:guest@no-such-host.invalid/").unwrap();
    until(": expected amqps://").await;
    std::fs::write(&file, "amqps://guest:guest@no-such-host.invalid/").unwrap();
    until("not connected to the broker: connect: the name does not resolve").await;
    std::fs::write(&file, rig.url()).unwrap();
    poll("readiness", async || (admin.get("/readyz").await.0 == 200).then_some(())).await;
    program.stop().await;
}

#[tokio::test]
async fn broker_with_too_small_frame_max_is_refused() {
    let rig = Rig::private().await;
    let frame_max = async |bytes: u32| {
        rig.broker().ctl(&["eval", &format!("application:set_env(rabbit, frame_max, {bytes}).")]).await;
    };
    frame_max(65_536).await;
    let worker = rig.launch(&[("amqp.reconnect_max", "100ms")]);
    let reason = "the broker's frame_max is 65536 bytes, and the copy of an event may need 131072";
    worker.output.until(reason, 1).await;
    let checked = rig.command(&["check", "--connect"], &[]).await;
    assert_eq!(checked.status, Some(1), "{checked:?}");
    assert!(checked.stdout.contains(reason) && checked.stdout.contains("set frame_max"), "{checked:?}");
    // 0 means no limit: lapin would allocate as much as a frame can have.
    frame_max(0).await;
    worker.output.until("subscribed to queue", 1).await;
    rig.publish(0).await;
    rig.until_experts_have(1).await;
    worker.stop().await;
}

/// RabbitMQ's Cluster Operator writes the URL this way.
#[tokio::test]
async fn empty_virtual_host_means_the_default_one() {
    let rig = Rig::new().await;
    let url = format!("{}/", rig.url().rsplit_once('/').unwrap().0);
    let program = rig.start(&[("amqp.url", &url)]).await;
    program.stop().await;
}

/// A method frame on channel 0.
fn frame(method: &[u8]) -> Vec<u8> {
    let size = u32::try_from(method.len()).unwrap().to_be_bytes();
    [&[1, 0, 0][..], &size, method, &[0xce]].concat()
}

/// Starts the handshake as a broker does, then refuses the login with `words`.
async fn refuse(mut stream: TcpStream, words: String) -> Option<()> {
    stream.read_exact(&mut [0; 8]).await.ok()?;
    let start =
        [&[0, 10, 0, 10, 0, 9][..], &[0; 4], &[0, 0, 0, 5], b"PLAIN", &[0, 0, 0, 5], b"en_US"].concat();
    stream.write_all(&frame(&start)).await.ok()?;
    let size = stream.read(&mut [0; 4096]).await.ok()?;
    assert!(size > 0, "the login");
    let length = u8::try_from(words.len()).unwrap();
    let close = [&[0, 10, 0, 50, 2, 18, length][..], words.as_bytes(), &[0; 4]].concat();
    stream.write_all(&frame(&close)).await.ok()?;
    while stream.read(&mut [0; 64]).await.ok()? > 0 {}
    Some(())
}

#[tokio::test]
async fn password_in_a_peers_error_text_is_hidden() {
    const RAW: &str = "s3cret%2Fword%22x";
    const DECODED: &str = "s3cret/word\"x";
    let rig = Rig::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://worker:{RAW}@{}/%2f", listener.local_addr().unwrap());
    let words = format!("NOT_ALLOWED - vhost {DECODED} or {RAW} not found");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(refuse(stream, words.clone()));
        }
    });
    let secret = |text: &str| ["s3cret", "word%22", "word\"x"].iter().any(|part| text.contains(part));
    let settings = [("amqp.url", url.as_str())];
    for command in [
        &["check", "--connect"][..],
        &["check", "--connect", "--json"],
        &["topology", "--declare"],
        &["dead", "list"],
        &["emit", "--guest", "sms:+34600111222", "--expert", "expert@example.com"],
    ] {
        let finished = rig.command(command, &settings).await;
        assert_eq!(finished.status, Some(1), "{finished:?}");
        assert!(
            (finished.stdout.clone() + &finished.stderr)
                .contains("NOT_ALLOWED - vhost [hidden] or [hidden] not found"),
            "{finished:?}"
        );
        assert!(!secret(&finished.stdout) && !secret(&finished.stderr), "{finished:?}");
    }
    let program = rig.launch(&settings);
    let admin = Admin::of(&program).await;
    program.output.until("NOT_ALLOWED - vhost [hidden] or [hidden] not found", 3).await;
    assert!(!secret(&program.output.text()), "{}", program.output.text());
    let (_, body) = admin.get("/readyz").await;
    assert!(body.contains("NOT_ALLOWED - vhost [hidden]") && !secret(&body), "{body}");
    program.stop().await;
}

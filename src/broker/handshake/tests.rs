use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::endpoint::broker_url::{self, UrlRules};

const SOON: Duration = Duration::from_secs(60);

/// The error of a connection with `scheme` to a peer that reads some bytes, sends `words` and closes.
async fn fails(scheme: &str, words: &'static [u8]) -> BrokerError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://guest:guest@{}/", listener.local_addr().unwrap());
    let node = broker_url::nodes(&url.into(), UrlRules { allow_insecure: false, external: false })
        .unwrap()
        .remove(0);
    let peer = async || {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            _ = stream.read(&mut [0; 64]).await;
            _ = stream.write_all(words).await;
            _ = stream.shutdown().await;
        }
    };
    let files = Connections::new(crate::tls::Files::default());
    let error = tokio::select! {
        connected = connect(&node, &files, SOON, "test", false) => connected.unwrap_err(),
        () = peer() => unreachable!(),
    };
    let greeted = tokio::select! {
        greeted = greeting(&node, &files, SOON) => greeted.unwrap_err(),
        () = peer() => unreachable!(),
    };
    assert_eq!(greeted.reason(), error.reason());
    assert!(!error.is_protocol_error(), "no message has arrived yet: {error}");
    error
}

#[tokio::test]
async fn peer_other_than_a_broker_is_identified() {
    for (words, non_broker, text) in [
        (&b"\x15\x03\x01\0\x02\x02\x46"[..], NonBroker::Tls, "amqps://"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NonBroker::Http, "management API"),
        (b"AMQP\0\x01\0\0", NonBroker::OtherAmqp, "another version"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NonBroker::Other, "is that the broker's port"),
        (b"\x01\0\x01\0\0\0\0\xce", NonBroker::Other, "is that the broker's port"),
        (b"", NonBroker::NoReply, "TLS"),
    ] {
        let error = fails("amqp", words).await;
        assert!(
            matches!(&error, BrokerError::NonBroker(found) if *found == non_broker),
            "{words:?}: {error:?}"
        );
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn peer_without_tls_is_identified() {
    for words in [&b"AMQP\0\0\x09\x01"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let error = fails("amqps", words).await;
        assert_eq!(
            error.reason(),
            crate::broker::connection::Reason::Unreached(Obstacle::NotTls),
            "{error:?}"
        );
    }
}

/// lapin's thread and its socket end with the attempt, even if the peer does nothing.
#[tokio::test]
async fn abandoned_login_ends_its_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://guest:guest@{}/", listener.local_addr().unwrap());
    let node = broker_url::nodes(&url.into(), UrlRules { allow_insecure: false, external: false })
        .unwrap()
        .remove(0);
    let files = Connections::new(crate::tls::Files::default());
    let connecting = connect(&node, &files, SOON, "test", false);
    let peer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).await.unwrap();
        stream
    };
    let mut stream = tokio::select! {
        connected = connecting => panic!("{connected:?}"),
        stream = peer => stream,
    };
    let ended = tokio::time::timeout(SOON, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

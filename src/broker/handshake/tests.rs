use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::endpoint::broker_url::{self, UrlRules};

const SOON: Duration = Duration::from_secs(60);

/// How a connection by `scheme` fails to a peer that reads some bytes, says `words` and leaves.
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
    assert!(!error.is_reading(), "there was no message yet: {error}");
    error
}

#[tokio::test]
async fn peer_that_is_no_broker_is_named() {
    for (words, stranger, text) in [
        (&b"\x15\x03\x01\0\x02\x02\x46"[..], Stranger::Tls, "amqps://"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Stranger::Http, "management API"),
        (b"AMQP\0\x01\0\0", Stranger::OtherAmqp, "another version"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Stranger::Other, "is that the broker's port"),
        (b"\x01\0\x01\0\0\0\0\xce", Stranger::Other, "is that the broker's port"),
        (b"", Stranger::Silent, "TLS"),
    ] {
        let error = fails("amqp", words).await;
        assert!(matches!(&error, BrokerError::Stranger(found) if *found == stranger), "{words:?}: {error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn peer_without_tls_is_named() {
    for words in [&b"AMQP\0\0\x09\x01"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let error = fails("amqps", words).await;
        assert_eq!(
            error.reason(),
            crate::broker::connection::Reason::Unreached(Obstacle::NotTls),
            "{error:?}"
        );
    }
}

/// lapin's thread and its socket end with the try, whatever the peer does.
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

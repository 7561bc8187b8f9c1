//! How a connection to one node comes about: TCP, TLS, then AMQP's login, all within one time limit, over a stream of our own.

use std::{fmt, io, time::Duration};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

use super::{
    connection::{BrokerError, Connected, FRAME_BYTES_MIN},
    greeting::Greeting,
    sieve::Sieve,
    stream::{Carrier, Ender, Kit, Stream},
};
use crate::{
    endpoint::{Obstacle, broker_url::Node, dial},
    tls::Connections,
};

/// The heartbeat in seconds if the URL names none: a peer that stalls is noticed after two.
const HEARTBEAT_S: u16 = 10;

/// Something that answers, and is no broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// It speaks TLS, and was addressed without.
    Tls,
    /// It speaks HTTP.
    Http,
    /// It speaks another version of AMQP.
    OtherAmqp,
    /// It ended the connection and never said a word.
    Silent,
    /// It says something else.
    Other,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the peer speaks TLS: write amqps://, or use the broker's port without TLS",
            Self::Http => {
                "an HTTP server answers there: use the broker's port (5672, or 5671 with TLS), not its management API's"
            }
            Self::OtherAmqp => "the peer speaks another version of AMQP than 0-9-1",
            Self::Silent => {
                "the peer closed the connection without an answer: is TLS expected there (amqps://), or is a proxy in between?"
            }
            Self::Other => "the peer does not speak AMQP 0-9-1: is that the broker's port?",
        })
    }
}

impl Stranger {
    /// What the first bytes of a peer say that is no broker; `None` of one that may be.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        match first {
            // Frames of TLS: an alert, a handshake.
            [0x15 | 0x16, 3, ..] => Some(Self::Tls),
            [b'H', b'T', b'T', b'P', ..] => Some(Self::Http),
            [b'A', b'M', b'Q', b'P', ..] => Some(Self::OtherAmqp),
            // A method on channel 0, as every broker begins.
            [] | [1] | [1, 0] | [1, 0, 0, ..] => None,
            _ => Some(Self::Other),
        }
    }
}

/// A connection to `node`, with all that it takes within `limit`. `purpose` shows in the broker's list of connections. If it
/// `sieves`, messages whose properties can't be read come without them.
pub(super) async fn connect(
    node: &Node,
    tls: &Connections,
    limit: Duration,
    purpose: &str,
    sieves: bool,
) -> Result<Connected, BrokerError> {
    let name = format!("instant-connect-worker {} {purpose}", env!("CARGO_PKG_VERSION"));
    let begin = async |stream| {
        let (stream, ender) = Stream::new(carrier(stream, node, tls).await?, sieves.then(Sieve::default));
        let properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
        log_in(node, properties, stream, ender).await
    };
    // Any node of the name would refuse the same login.
    dial(&node.host, node.port, limit, BrokerError::Unreached, begin, |error| error.reply_code().is_some())
        .await
}

/// What `node` says of itself before anybody logs in, within `limit`. No password is sent.
pub(super) async fn greeting(
    node: &Node,
    tls: &Connections,
    limit: Duration,
) -> Result<Greeting, BrokerError> {
    let begin = async |stream| match carrier(stream, node, tls).await? {
        Carrier::Plain(stream) => Greeting::over(stream).await,
        Carrier::Tls(stream) => Greeting::over(stream).await,
    };
    dial(&node.host, node.port, limit, BrokerError::Unreached, begin, |_| false).await
}

async fn carrier(stream: TcpStream, node: &Node, tls: &Connections) -> Result<Carrier, BrokerError> {
    if !node.tls {
        return Ok(Carrier::Plain(stream));
    }
    let name =
        ServerName::try_from(node.host.clone()).map_err(|_| BrokerError::Unreached(Obstacle::WrongName))?;
    let config = tls.config().map_err(BrokerError::Tls)?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    Ok(Carrier::Tls(Box::new(connected.map_err(|error| BrokerError::Unreached(Obstacle::of(&error)))?)))
}

/// Has lapin log in over `stream`. Dropping this ends the stream, and with it lapin's thread.
async fn log_in(
    node: &Node,
    properties: ConnectionProperties,
    stream: Stream,
    ender: Ender,
) -> Result<Connected, BrokerError> {
    let once = Mutex::new(Some(stream));
    let hand_over = async move |_, _| match once.lock().await.take() {
        Some(stream) => Ok(AsyncTcpStream::Plain(stream)),
        None => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
    };
    let runtime = async_rs::Runtime::new(Kit::current());
    match Connection::connector(uri(node), runtime, hand_over, properties).await {
        Ok(connection) => {
            let frame_max = connection.configuration().frame_max();
            if frame_max < FRAME_BYTES_MIN {
                return Err(BrokerError::SmallFrames(frame_max));
            }
            Ok(Connected::new(connection, ender))
        }
        Err(error) => Err(failure(error, &ender.first())),
    }
}

/// lapin's error before a connection stood. One about bytes that it can't read says nothing of a message: there was none yet.
fn failure(error: lapin::Error, first: &[u8]) -> BrokerError {
    if let Some(stranger) = Stranger::of(first) {
        return BrokerError::Stranger(stranger);
    }
    match error.kind() {
        ErrorKind::ProtocolError(_) => BrokerError::Lapin("connect", error),
        ErrorKind::InvalidProtocolVersion(_) => BrokerError::Stranger(Stranger::OtherAmqp),
        ErrorKind::ParsingError(_) => BrokerError::Stranger(Stranger::Other),
        ErrorKind::IOError(error) if first.is_empty() => match Obstacle::of(error.as_ref()) {
            Obstacle::Closed => BrokerError::Stranger(Stranger::Silent),
            obstacle => BrokerError::Unreached(obstacle),
        },
        ErrorKind::IOError(error) => BrokerError::Unreached(Obstacle::of(error.as_ref())),
        _ => BrokerError::Ended(
            "connect: the connection broke during the login; see the broker's log".to_owned(),
        ),
    }
}

/// `node` as lapin takes it. Nothing else makes one.
fn uri(node: &Node) -> AMQPUri {
    let password = node.password.expose_secret().to_owned();
    // Without a user: by the certificate.
    let mechanism = if node.user.is_empty() { SASLMechanism::External } else { SASLMechanism::Plain };
    AMQPUri {
        scheme: if node.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: node.user.clone(), password },
            host: node.host.clone(),
            port: node.port,
        },
        vhost: node.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(node.heartbeat.unwrap_or(HEARTBEAT_S)),
            auth_mechanism: Some(mechanism),
            // lapin takes the lower of this and the broker's own value, and allocates 64 frames. A broker's 0 (no limit) would be 4 GiB each.
            frame_max: Some(FRAME_BYTES_MIN),
            ..AMQPQueryString::default()
        },
    }
}

#[cfg(test)]
mod tests;

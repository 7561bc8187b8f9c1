//! Opens a connection to one node: TCP, TLS and the AMQP login within one time limit, over our own stream.

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
    property_filter::PropertyFilter,
    stream::{Carrier, Ender, Kit, Stream},
};
use crate::{
    endpoint::{Obstacle, broker_url::Node, dial},
    tls::Connections,
};

/// Heartbeat in seconds if the URL sets none. A stalled peer is noticed after two missed heartbeats.
const HEARTBEAT_S: u16 = 10;

/// A peer that is not an AMQP 0-9-1 broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonBroker {
    /// The peer speaks TLS, and the URL has no TLS.
    Tls,
    /// The peer speaks HTTP.
    Http,
    /// The peer speaks another version of AMQP.
    OtherAmqp,
    /// The peer closed the connection and sent nothing.
    NoReply,
    /// The peer speaks an unknown protocol.
    Other,
}

impl fmt::Display for NonBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the peer speaks TLS: write amqps://, or use the broker's port without TLS",
            Self::Http => {
                "an HTTP server responded: use the broker's port (5672, or 5671 with TLS), not the port of its management API"
            }
            Self::OtherAmqp => "the peer speaks another version of AMQP, not 0-9-1",
            Self::NoReply => {
                "the peer closed the connection without a reply: does it expect TLS (amqps://), or is a proxy in between?"
            }
            Self::Other => "the peer does not speak AMQP 0-9-1: is that the broker's port?",
        })
    }
}

impl NonBroker {
    /// Recognizes a peer that is not a broker by its first bytes; `None` if it may be a broker.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        match first {
            // TLS records: an alert, a handshake.
            [0x15 | 0x16, 3, ..] => Some(Self::Tls),
            [b'H', b'T', b'T', b'P', ..] => Some(Self::Http),
            [b'A', b'M', b'Q', b'P', ..] => Some(Self::OtherAmqp),
            // A method frame on channel 0, the first frame of every broker.
            [] | [1] | [1, 0] | [1, 0, 0, ..] => None,
            _ => Some(Self::Other),
        }
    }
}

/// Connects to `node` within `limit`, login included. `purpose` shows in the broker's list of connections. With
/// `filters_properties`, a message with unreadable properties arrives without them.
pub(super) async fn connect(
    node: &Node,
    tls: &Connections,
    limit: Duration,
    purpose: &str,
    filters_properties: bool,
) -> Result<Connected, BrokerError> {
    let name = format!("instant-connect-worker {} {purpose}", env!("CARGO_PKG_VERSION"));
    let begin = async |stream| {
        let (stream, ender) =
            Stream::new(carrier(stream, node, tls).await?, filters_properties.then(PropertyFilter::default));
        let properties = ConnectionProperties::default().with_connection_name(name.as_str().into());
        log_in(node, properties, stream, ender).await
    };
    // Every address of this host name would refuse the same login.
    dial(&node.host, node.port, limit, BrokerError::Unreached, begin, |error| error.reply_code().is_some())
        .await
}

/// Reads the description that `node` sends before any login, within `limit`. No password is sent.
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

/// Lets lapin log in over `stream`. Dropping this future ends the stream, and with it lapin's thread.
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

/// Converts lapin's error during the login. No message has arrived yet, so unreadable bytes are not the fault of a
/// message.
fn failure(error: lapin::Error, first: &[u8]) -> BrokerError {
    if let Some(non_broker) = NonBroker::of(first) {
        return BrokerError::NonBroker(non_broker);
    }
    match error.kind() {
        ErrorKind::ProtocolError(_) => BrokerError::Lapin("connect", error),
        ErrorKind::InvalidProtocolVersion(_) => BrokerError::NonBroker(NonBroker::OtherAmqp),
        ErrorKind::ParsingError(_) => BrokerError::NonBroker(NonBroker::Other),
        ErrorKind::IOError(error) if first.is_empty() => match Obstacle::of(error.as_ref()) {
            Obstacle::Closed => BrokerError::NonBroker(NonBroker::NoReply),
            obstacle => BrokerError::Unreached(obstacle),
        },
        ErrorKind::IOError(error) => BrokerError::Unreached(Obstacle::of(error.as_ref())),
        _ => BrokerError::Ended(
            "connect: the connection broke during the login; see the broker's log".to_owned(),
        ),
    }
}

/// The URL of `node` for lapin. No other code builds one.
fn uri(node: &Node) -> AMQPUri {
    let password = node.password.expose_secret().to_owned();
    // Without a user name, the client certificate authenticates.
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

//! Operations on the broker that failed.

use std::time::Duration;

use super::FRAME_BYTES_MIN;
use crate::{broker::handshake::NonBroker, endpoint::Obstacle, masking::masked};

/// An operation on the broker that failed. Its text shows no password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No reply within the time limit.
    #[error("{0}: no reply within {1:?}")]
    Timeout(&'static str, Duration),
    /// An error of lapin or of the broker.
    #[error("{0}: {text}", text = masked(&.1.to_string()))]
    Lapin(&'static str, lapin::Error),
    /// The broker closed the connection or channel, or it broke.
    #[error("{}", masked(.0))]
    Ended(String),
    /// The URL can't be read or is invalid.
    #[error("{0}")]
    Url(String),
    /// The connection could not be established.
    #[error("connect: {0}")]
    Unreached(Obstacle),
    /// The peer is not an AMQP 0-9-1 broker.
    #[error("connect: {0}")]
    NonBroker(NonBroker),
    /// The broker's `frame_max` is smaller than the copy of an event may need.
    #[error(
        "connect: the broker's frame_max is {0} bytes, and the copy of an event may need {FRAME_BYTES_MIN}; set frame_max in the broker's configuration to that or more"
    )]
    SmallFrames(u32),
    /// A file that TLS needs is unusable.
    #[error("connect: TLS: {}", masked(&.0.to_string()))]
    Tls(rustls::Error),
}

/// The kind of an error, which does not depend on its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No reply at this step.
    Timeout(&'static str),
    /// An error with this AMQP reply code.
    Reply(u16),
    /// No connection to the peer.
    Unreached(Obstacle),
    /// The peer is not a broker.
    NonBroker(NonBroker),
    /// An invalid setting, or an unusable file that a setting names.
    Setting,
    /// The broker's exchanges or queues do not match.
    Topology,
    /// The connection or channel broke or was closed.
    Ended,
}

impl BrokerError {
    /// True if lapin could not process the bytes that it read: a property that is not UTF-8, a frame that is too
    /// large or out of order. On an established connection, the cause is a message, and it will end the next
    /// connection too.
    #[must_use]
    pub fn is_protocol_error(&self) -> bool {
        // lapin itself raises the codes for frame, syntax, command, channel and unexpected-frame errors.
        matches!(self, Self::Lapin(_, error) if matches!(error.kind(), lapin::ErrorKind::ParsingError(_)))
            || matches!(self.reply_code(), Some(501..=505))
    }

    /// The kind of this error.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout(step, _) => Reason::Timeout(step),
            Self::Lapin(..) => self.reply_code().map_or(Reason::Ended, Reason::Reply),
            Self::Ended(_) => Reason::Ended,
            Self::Url(_) | Self::Tls(_) | Self::SmallFrames(_) => Reason::Setting,
            Self::Unreached(obstacle) => Reason::Unreached(*obstacle),
            Self::NonBroker(non_broker) => Reason::NonBroker(*non_broker),
        }
    }

    /// The AMQP reply code, such as 406, if the broker or lapin gave one.
    #[must_use]
    pub fn reply_code(&self) -> Option<u16> {
        match self {
            Self::Lapin(_, error) => match error.kind() {
                lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            _ => None,
        }
    }
}

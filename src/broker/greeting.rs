//! The first frame of a connection, in which a broker describes itself before any login. lapin reads this frame and
//! does not expose it.

use lapin::types::{AMQPValue, FieldTable, parsing::parse_field_table};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{connection::BrokerError, handshake::NonBroker};
use crate::endpoint::Obstacle;

/// First bytes of a client: AMQP 0-9-1.
const HELLO: &[u8] = b"AMQP\0\0\x09\x01";
/// Type, channel and size of a frame.
const HEADER: usize = 7;
/// Size limit of the first frame; RabbitMQ's has about 500 bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Start of a method frame on channel 0; its size follows.
const METHOD: [u8; 3] = [1, 0, 0];
/// Class `connection`, method `start`, version 0-9.
const START: [u8; 6] = [0, 10, 0, 10, 0, 9];

/// A broker's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Product name, such as `RabbitMQ`.
    pub product: String,
    /// Version, such as `3.10.8`.
    pub version: String,
    /// Protocol extensions that the broker supports.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// Sends the protocol header over `stream`, and returns as soon as the broker has described itself.
    pub(super) async fn over(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Self, BrokerError> {
        let broke = |error: std::io::Error| BrokerError::Unreached(Obstacle::of(&error));
        stream.write_all(HELLO).await.map_err(broke)?;
        stream.flush().await.map_err(broke)?;
        let mut bytes = Vec::new();
        loop {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).await.map_err(broke)?;
            bytes.extend_from_slice(&some[..count]);
            match Self::read(&bytes) {
                Ok(Some(greeting)) => return Ok(greeting),
                Ok(None) if count == 0 && bytes.is_empty() => {
                    return Err(BrokerError::NonBroker(NonBroker::NoReply));
                }
                Ok(None) if count == 0 => return Err(BrokerError::Unreached(Obstacle::Closed)),
                Ok(None) => {}
                Err(non_broker) => return Err(BrokerError::NonBroker(non_broker)),
            }
        }
    }

    /// Parses the first frame; `None` while it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<Self>, NonBroker> {
        let non_broker = || NonBroker::of(bytes).unwrap_or(NonBroker::Other);
        let Some(head) = bytes.get(..HEADER) else { return Ok(None) };
        let (kind, size) = head.split_at(METHOD.len());
        let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        if kind != METHOD || size > BYTES_MAX {
            return Err(non_broker());
        }
        let Some(method) = bytes.get(HEADER..HEADER + size) else { return Ok(None) };
        let table = method.strip_prefix(&START).ok_or_else(non_broker)?;
        let (_, properties) = parse_field_table(table).map_err(|_| non_broker())?;
        let text = |name: &str| match properties.inner().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            _ => String::new(),
        };
        let capabilities = match properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(table)) => enabled(table),
            _ => Vec::new(),
        };
        Ok(Some(Self { product: text("product"), version: text("version"), capabilities }))
    }

    /// Major and minor version number.
    #[must_use]
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut numbers = self.version.split(['.', '-', '+']).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

fn enabled(table: &FieldTable) -> Vec<String> {
    let enabled = table.inner().iter().filter(|(_, value)| **value == AMQPValue::Boolean(true));
    enabled.map(|(name, _)| name.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as RabbitMQ sends it, with `table` as its server properties.
    fn frame(table: &[u8]) -> Vec<u8> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let method = [&START[..], &size(table), table].concat();
        [&METHOD[..], &size(&method), &method, &[0xCE]].concat()
    }

    #[test]
    fn greeting_complete_is_parsed_and_non_broker_is_refused() {
        let table = b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x064.1.0-\x0ccapabilitiesF\0\0\0\x0d\
            \x04yea\xc3\x7ft\x01\x02not\0\0";
        let simple = b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x053.10.\x0ccapabilitiesF\0\0\0\x0b\x03yest\x01\x02not\0";
        let whole = frame(simple);
        for end in 0..whole.len() - 1 {
            assert_eq!(Greeting::read(&whole[..end]).unwrap(), None, "{end} bytes");
        }
        let greeting = Greeting::read(&whole).unwrap().unwrap();
        assert_eq!((greeting.product.as_str(), greeting.version.as_str()), ("RabbitMQ", "3.10."));
        assert_eq!(
            (greeting.capabilities.clone(), greeting.numbers()),
            (vec!["yes".to_owned()], Some((3, 10)))
        );
        for non_broker in [b"HTTP/1.1 400 Bad Request".to_vec(), b"AMQP\x03\x01\0\0".to_vec(), frame(table)] {
            assert!(Greeting::read(&non_broker).is_err());
        }
    }
}

//! What a broker says of itself in the first frame of a connection, before anybody logs in. lapin reads it and keeps it
//! to itself.

use lapin::types::{AMQPValue, FieldTable, parsing::parse_field_table};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{connection::BrokerError, handshake::Stranger};
use crate::endpoint::Obstacle;

/// How a client begins: AMQP 0-9-1.
const HELLO: &[u8] = b"AMQP\0\0\x09\x01";
/// Type, channel and size of a frame.
const HEAD: usize = 7;
/// Largest first frame that is read; RabbitMQ's has some 500 bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Method frame on channel 0, and the size after it.
const METHOD: [u8; 3] = [1, 0, 0];
/// Class `connection`, method `start`, version 0-9.
const START: [u8; 6] = [0, 10, 0, 10, 0, 9];

/// What a broker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `3.10.8`.
    pub version: String,
    /// What it can do beyond the protocol.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// Asks over `stream`, and leaves once the broker has said what it is.
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
                    return Err(BrokerError::Stranger(Stranger::Silent));
                }
                Ok(None) if count == 0 => return Err(BrokerError::Unreached(Obstacle::Closed)),
                Ok(None) => {}
                Err(stranger) => return Err(BrokerError::Stranger(stranger)),
            }
        }
    }

    /// What the first frame says; `None` while there is not all of it.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Stranger> {
        let stranger = || Stranger::of(bytes).unwrap_or(Stranger::Other);
        let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
        let (kind, size) = head.split_at(METHOD.len());
        let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        if kind != METHOD || size > BYTES_MAX {
            return Err(stranger());
        }
        let Some(method) = bytes.get(HEAD..HEAD + size) else { return Ok(None) };
        let table = method.strip_prefix(&START).ok_or_else(stranger)?;
        let (_, properties) = parse_field_table(table).map_err(|_| stranger())?;
        let text = |name: &str| match properties.inner().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            _ => String::new(),
        };
        let capabilities = match properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(table)) => able(table),
            _ => Vec::new(),
        };
        Ok(Some(Self { product: text("product"), version: text("version"), capabilities }))
    }

    /// Major and minor number of its version.
    #[must_use]
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut numbers = self.version.split(['.', '-', '+']).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

fn able(table: &FieldTable) -> Vec<String> {
    let able = table.inner().iter().filter(|(_, value)| **value == AMQPValue::Boolean(true));
    able.map(|(name, _)| name.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as RabbitMQ sends it, with these bytes as its table.
    fn frame(table: &[u8]) -> Vec<u8> {
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let method = [&START[..], &size(table), table].concat();
        [&METHOD[..], &size(&method), &method, &[0xCE]].concat()
    }

    #[test]
    fn a_greeting_is_read_whole_and_a_stranger_s_is_refused() {
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
        for stranger in [b"HTTP/1.1 400 Bad Request".to_vec(), b"AMQP\x03\x01\0\0".to_vec(), frame(table)] {
            assert!(Greeting::read(&stranger).is_err());
        }
    }
}

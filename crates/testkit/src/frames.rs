//! A relay in front of the broker that drops or delays chosen AMQP frames.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Frame types of AMQP 0-9-1.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// The method of a confirm.
pub const BASIC_ACK: [u8; 4] = [0, 60, 0, 80];
/// The method of a delivery.
pub const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Bytes of a confirm: of its frame's head, its method, its number, its flags, and the end of its frame.
const ACK_BYTES: usize = 7 + 4 + 8 + 1 + 1;

/// A frame from the broker.
pub struct Frame(Vec<u8>);

impl Frame {
    /// The broker closes the connection, as at an operator's request.
    #[must_use]
    pub fn close_connection() -> Self {
        // Channel 0, 11 bytes; class, method, reply code 320; no text, and no method that was the cause.
        Self(vec![METHOD, 0, 0, 0, 0, 0, 11, 0, 10, 0, 50, 1, 64, 0, 0, 0, 0, 0, 0xCE])
    }

    /// True if the frame contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|part| part == text.as_bytes())
    }

    pub fn channel(&self) -> [u8; 2] {
        [self.0[1], self.0[2]]
    }

    /// True for a frame of the method with this class and number.
    pub fn is(&self, method: [u8; 4]) -> bool {
        self.0[0] == METHOD && self.0[7..].starts_with(&method)
    }

    /// The number of a confirm, and true if the confirm includes all before it.
    pub fn confirm(&self) -> Option<(u64, bool)> {
        let number = self.0.get(11..19).filter(|_| self.is(BASIC_ACK))?;
        Some((u64::from_be_bytes(number.try_into().unwrap()), self.0[19] & 1 == 1))
    }

    /// A confirm of one message, on the channel of this frame.
    #[must_use]
    pub fn confirm_of(&self, number: u64) -> Self {
        let mut frame = Vec::with_capacity(ACK_BYTES);
        frame.extend([METHOD, self.0[1], self.0[2], 0, 0, 0, 13]);
        frame.extend(BASIC_ACK);
        frame.extend(number.to_be_bytes());
        // Not for the messages before it; then the end of the frame.
        frame.extend([0, 0xCE]);
        Self(frame)
    }

    /// True for the header or a part of the body of a message.
    pub fn is_content(&self) -> bool {
        [HEADER, BODY].contains(&self.0[0])
    }
}

/// Relays to the broker of `url`, and returns the URL of the relay. Each connection gets a filter of its own from `filters`. The
/// filter gets each frame from the broker, and returns the frames that pass now.
pub async fn relay<F>(url: &str, filters: impl Fn() -> F + Send + 'static) -> String
where
    F: FnMut(Frame) -> Vec<Frame> + Send + 'static,
{
    let (credentials, rest) = url.rsplit_once('@').unwrap();
    let (broker, vhost) = rest.split_once('/').unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay = format!("{credentials}@{}/{vhost}", listener.local_addr().unwrap());
    let broker = broker.to_owned();
    tokio::spawn(async move {
        while let Ok((worker, _)) = listener.accept().await {
            let (mut from_worker, to_worker) = worker.into_split();
            let (from_broker, mut to_broker) = TcpStream::connect(&broker).await.unwrap().into_split();
            let filter = filters();
            tokio::spawn(async move {
                // If either side disconnects, so does the other.
                tokio::select! {
                    _ = copy(&mut from_worker, &mut to_broker) => {}
                    _ = pass(from_broker, to_worker, filter) => {}
                }
            });
        }
    });
    relay
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut filter: impl FnMut(Frame) -> Vec<Frame>,
) -> std::io::Result<()> {
    loop {
        let mut frame = vec![0; 7];
        from.read_exact(&mut frame).await?;
        let bytes = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
        // Each frame ends with one byte.
        frame.resize(7 + bytes + 1, 0);
        from.read_exact(&mut frame[7..]).await?;
        for frame in filter(Frame(frame)) {
            to.write_all(&frame.0).await?;
        }
    }
}

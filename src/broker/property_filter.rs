//! Removes the properties of a message that lapin can't parse. Such properties would end the connection.

use lapin::{BasicProperties, protocol::basic::parse_properties};

/// Length of a frame's type, channel and size. Another octet ends the frame.
const HEADER: usize = 7;
const END: u8 = 0xCE;
/// The frame types of AMQP: method, content header, body, heartbeat.
const KINDS: [u8; 4] = [1, 2, 3, 8];
const CONTENT_HEADER: u8 = 2;
/// The largest frame, unless the broker sets another limit in `connection.tune`. RabbitMQ exceeds it if the
/// properties are larger.
const FRAME_MAX: usize = 128 * 1024;
/// Type of a method frame, and the class and method of `connection.tune`, which carries the frame size limit.
const METHOD: u8 = 1;
const TUNE: [u8; 4] = [0, 10, 0, 30];
/// A frame that claims to be larger is not AMQP.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Length of class, weight and body size, which precede the properties.
const BODY: usize = 12;
/// Replacement for properties that can't be read: headers with one field that is true.
const MARKER: &[u8] = b"\x20\0\0\0\0\x0f\x0cx-unreadablet\x01";

/// Splits the broker's bytes into frames and replaces unreadable properties.
#[derive(Debug, Default)]
pub(super) struct PropertyFilter {
    /// The start of an incomplete frame.
    received: Vec<u8>,
    /// Bytes ready to be read, and the number of them that were.
    out: Vec<u8>,
    read: usize,
    /// The peer does not send AMQP; its bytes pass unchanged.
    not_amqp: bool,
    /// The frame size limit from `connection.tune`; 0 is no limit.
    tuned: Option<usize>,
}

impl PropertyFilter {
    /// Adds received bytes; an empty slice marks the end of the stream.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        self.out.drain(..std::mem::take(&mut self.read));
        let mut from = 0;
        while let Some(size) = self.received.get(from..).and_then(size).filter(|_| !self.not_amqp) {
            if !KINDS.contains(&self.received[from]) || size > BYTES_MAX {
                self.not_amqp = true;
                break;
            }
            let Some(frame) = self.received.get(from..from + HEADER + size + 1) else { break };
            // lapin asks for FRAME_MAX, and the lower of both values applies; 0 is no limit.
            self.tuned = self.tuned.or_else(|| {
                tuned(frame).map(|bytes| if bytes == 0 { FRAME_MAX } else { bytes.min(FRAME_MAX) })
            });
            if is_readable(frame, self.tuned.unwrap_or(FRAME_MAX)) {
                self.out.extend_from_slice(frame);
            } else {
                self.out.extend(without_properties(frame));
            }
            from += frame.len();
        }
        self.received.drain(..from);
        if bytes.is_empty() || self.not_amqp {
            self.out.append(&mut self.received);
        }
    }

    /// Moves bytes that are ready into `bytes`; returns their number.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let left = &self.out[self.read..];
        let count = left.len().min(bytes.len());
        bytes[..count].copy_from_slice(&left[..count]);
        self.read += count;
        count
    }
}

/// The payload size of the frame that begins here.
fn size(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(3..HEADER)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// The frame size limit, if this frame is `connection.tune`. The number of channels precedes the limit.
fn tuned(frame: &[u8]) -> Option<usize> {
    let method = frame.get(HEADER..).filter(|_| frame[0] == METHOD)?;
    let size = method.strip_prefix(&TUNE)?.get(2..6)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// True if lapin can read `frame`, of at most `frame_max` bytes.
fn is_readable(frame: &[u8], frame_max: usize) -> bool {
    let Some(properties) = frame.get(HEADER + BODY..frame.len() - 1) else { return true };
    let fits = frame.len() <= frame_max;
    frame[0] != CONTENT_HEADER || (fits && parse_properties(properties).is_ok())
}

fn without_properties(frame: &[u8]) -> Vec<u8> {
    let (channel, body) = (&frame[..3], &frame[HEADER..HEADER + BODY]);
    // 33 is the length of BODY and MARKER.
    [channel, &[0, 0, 0, 33], body, MARKER, &[END]].concat()
}

/// True if these properties replace properties that could not be read.
pub(crate) fn is_unreadable(properties: &BasicProperties) -> bool {
    parse_properties(MARKER).is_ok_and(|(_, marker)| marker == *properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[END]].concat()
    }

    /// A content header for a body of two bytes, with these properties.
    fn header(properties: &[u8]) -> Vec<u8> {
        frame(CONTENT_HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], properties].concat())
    }

    /// A content header with MARKER, which `is_unreadable` recognizes.
    fn unreadable() -> Vec<u8> {
        assert!(is_unreadable(&parse_properties(MARKER).unwrap().1));
        header(MARKER)
    }

    fn filtered(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let (mut filter, mut out) = (PropertyFilter::default(), Vec::new());
        for part in bytes.chunks(at_once).chain([&[][..]]) {
            filter.feed(part);
            let mut some = [0; 5];
            while let count @ 1.. = filter.read(&mut some) {
                out.extend_from_slice(&some[..count]);
            }
        }
        out
    }

    #[test]
    fn properties_not_utf_8_are_removed_and_all_else_is_kept() {
        let good = header(b"\x00\x80\x02id");
        let bad = header(b"\x00\x80\x02\xff\xfe");
        let body = frame(3, b"{}");
        let bytes = [&good[..], &body, &bad, &body, &good, &body].concat();
        for at_once in [1, 7, 8, 1000] {
            let out = filtered(&bytes, at_once);
            let rest = out.strip_prefix(&[&good[..], &body].concat()[..]).unwrap();
            assert_eq!(rest, [&unreadable()[..], &body, &good, &body].concat());
        }
    }

    #[test]
    fn properties_larger_than_a_frame_are_removed() {
        let text = vec![b'a'; FRAME_MAX];
        let size = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
        let table = [b"\x01aS", &size(text.len())[..], &text].concat();
        let properties = [&[0x20, 0], &size(table.len())[..], &table].concat();
        assert!(parse_properties(&properties[..]).is_ok());
        let out = filtered(&header(&properties), 1000);
        assert_eq!(out, unreadable());
        for (frame_max, fits) in [(0, false), (FRAME_MAX, false), (2 * FRAME_MAX, false)] {
            let tune = frame(METHOD, &[&TUNE[..], &[0, 0], &size(frame_max), &[0, 60]].concat());
            let out = filtered(&[&tune[..], &header(&properties)].concat(), 1000);
            let expected = if fits { header(&properties) } else { unreadable() };
            assert_eq!(out.strip_prefix(&tune[..]), Some(&expected[..]), "{frame_max}");
        }
    }

    #[test]
    fn bytes_other_than_amqp_pass_unchanged() {
        for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"AMQP\x00\x00\x09\x01", b"\x15\x03\x01"] {
            assert_eq!(filtered(bytes, 3), bytes);
        }
    }
}

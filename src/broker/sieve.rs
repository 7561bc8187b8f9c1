//! Has lapin read messages whose properties it can't read, which end its connection: it gets them without these properties.

use lapin::{BasicProperties, protocol::basic::parse_properties};

/// Type, channel and size of a frame, and the octet that ends it.
const HEAD: usize = 7;
const END: u8 = 0xCE;
/// The frames of AMQP: method, content header, body, heartbeat.
const KINDS: [u8; 4] = [1, 2, 3, 8];
const CONTENT_HEADER: u8 = 2;
/// The largest frame that lapin and RabbitMQ agree on, unless the broker says otherwise. RabbitMQ does not keep to it if the properties
/// are larger.
const FRAME_MAX: usize = 128 * 1024;
/// Type of a method's frame, and the class and method `connection.tune`, in which the broker says how large a frame may be.
const METHOD: u8 = 1;
const TUNE: [u8; 4] = [0, 10, 0, 30];
/// What is larger is no frame.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Class, weight and size of the body, before the properties.
const BODY: usize = 12;
/// The properties of a message whose own could not be read: headers, with one field that is true.
const MARK: &[u8] = b"\x20\0\0\0\0\x0f\x0cx-unreadablet\x01";

/// Takes what the broker sends, and gives it on.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    /// The beginning of a frame.
    came: Vec<u8>,
    /// What is to be read, and how much of it was.
    out: Vec<u8>,
    read: usize,
    /// What comes is not AMQP.
    stranger: bool,
    /// What the broker said of the size of frames; 0 is no limit.
    tuned: Option<usize>,
}

impl Sieve {
    /// Takes what came, nothing at the end.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
        self.out.drain(..std::mem::take(&mut self.read));
        let mut from = 0;
        while let Some(size) = self.came.get(from..).and_then(size).filter(|_| !self.stranger) {
            if !KINDS.contains(&self.came[from]) || size > BYTES_MAX {
                self.stranger = true;
                break;
            }
            let Some(frame) = self.came.get(from..from + HEAD + size + 1) else { break };
            self.tuned = self.tuned.or_else(|| tuned(frame));
            if is_readable(frame, self.tuned.unwrap_or(FRAME_MAX)) {
                self.out.extend_from_slice(frame);
            } else {
                self.out.extend(without_properties(frame));
            }
            from += frame.len();
        }
        self.came.drain(..from);
        if bytes.is_empty() || self.stranger {
            self.out.append(&mut self.came);
        }
    }

    /// Moves to `bytes` what can be read; how much that is.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let left = &self.out[self.read..];
        let count = left.len().min(bytes.len());
        bytes[..count].copy_from_slice(&left[..count]);
        self.read += count;
        count
    }
}

/// The size of the payload of the frame that begins here.
fn size(bytes: &[u8]) -> Option<usize> {
    let size = bytes.get(3..HEAD)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// The largest frame, if this one says so: `connection.tune` has the number of channels, then this.
fn tuned(frame: &[u8]) -> Option<usize> {
    let method = frame.get(HEAD..).filter(|_| frame[0] == METHOD)?;
    let size = method.strip_prefix(&TUNE)?.get(2..6)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()
}

/// Whether lapin reads it, where a frame has `frame_max` bytes at most, or any number if that is 0.
fn is_readable(frame: &[u8], frame_max: usize) -> bool {
    let Some(properties) = frame.get(HEAD + BODY..frame.len() - 1) else { return true };
    let fits = frame_max == 0 || frame.len() <= frame_max;
    frame[0] != CONTENT_HEADER || (fits && parse_properties(properties).is_ok())
}

fn without_properties(frame: &[u8]) -> Vec<u8> {
    let (channel, body) = (&frame[..3], &frame[HEAD..HEAD + BODY]);
    // BODY and the size of the mark.
    [channel, &[0, 0, 0, 33], body, MARK, &[END]].concat()
}

/// Whether these are the properties of a message whose own could not be read.
pub(crate) fn is_unreadable(properties: &BasicProperties) -> bool {
    parse_properties(MARK).is_ok_and(|(_, mark)| mark == *properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[END]].concat()
    }

    /// A content header of a body of two bytes, with these properties.
    fn header(properties: &[u8]) -> Vec<u8> {
        frame(CONTENT_HEADER, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], properties].concat())
    }

    /// A content header with the mark, which is what is recognized.
    fn unreadable() -> Vec<u8> {
        assert!(is_unreadable(&parse_properties(MARK).unwrap().1));
        header(MARK)
    }

    fn sieved(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let (mut sieve, mut out) = (Sieve::default(), Vec::new());
        for part in bytes.chunks(at_once).chain([&[][..]]) {
            sieve.put(part);
            let mut some = [0; 5];
            while let count @ 1.. = sieve.read(&mut some) {
                out.extend_from_slice(&some[..count]);
            }
        }
        out
    }

    #[test]
    fn properties_that_are_not_utf_8_are_left_out_and_all_else_stays() {
        let good = header(b"\x00\x80\x02id");
        let bad = header(b"\x00\x80\x02\xff\xfe");
        let body = frame(3, b"{}");
        let bytes = [&good[..], &body, &bad, &body, &good, &body].concat();
        for at_once in [1, 7, 8, 1000] {
            let out = sieved(&bytes, at_once);
            let rest = out.strip_prefix(&[&good[..], &body].concat()[..]).unwrap();
            assert_eq!(rest, [&unreadable()[..], &body, &good, &body].concat());
        }
    }

    #[test]
    fn properties_larger_than_a_frame_are_left_out() {
        let text = vec![b'a'; FRAME_MAX];
        let size = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
        let table = [b"\x01aS", &size(text.len())[..], &text].concat();
        let properties = [&[0x20, 0], &size(table.len())[..], &table].concat();
        assert!(parse_properties(&properties[..]).is_ok());
        let out = sieved(&header(&properties), 1000);
        assert_eq!(out, unreadable());
        for (frame_max, fits) in [(0, true), (FRAME_MAX, false), (2 * FRAME_MAX, true)] {
            let tune = frame(METHOD, &[&TUNE[..], &[0, 0], &size(frame_max), &[0, 60]].concat());
            let out = sieved(&[&tune[..], &header(&properties)].concat(), 1000);
            let expected = if fits { header(&properties) } else { unreadable() };
            assert_eq!(out.strip_prefix(&tune[..]), Some(&expected[..]), "{frame_max}");
        }
    }

    #[test]
    fn what_is_not_amqp_passes_as_it_is() {
        for bytes in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"AMQP\x00\x00\x09\x01", b"\x15\x03\x01"] {
            assert_eq!(sieved(bytes, 3), bytes);
        }
    }
}

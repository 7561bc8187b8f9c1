//! A login at an AMQP 0-9-1 broker. An open port is not enough: a broker that is starting also has one. A login takes 0.1 s;
//! `rabbitmqctl await_startup` starts an Erlang VM.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(3);
const FRAME_BYTES_MAX: u32 = 131_072;
const FRAME_END: u8 = 0xce;

/// A method of AMQP: class and number.
type Method = (u16, u16);
const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CLOSE: Method = (10, 50);

/// Why a login failed.
#[derive(Debug)]
pub enum LoginError {
    /// No connection, or it ended. RabbitMQ also closes it after a wrong password.
    Io(io::Error),
    /// The broker closed the connection with this code and reason.
    Refused(u16, String),
    /// The server speaks another protocol.
    NotAmqp,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Refused(code, reason) => write!(f, "{code} {reason}"),
            Self::NotAmqp => f.write_str("the server does not speak AMQP 0-9-1"),
        }
    }
}

impl std::error::Error for LoginError {}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Logs in as `guest` at the virtual host `/`, and logs out.
///
/// # Errors
/// [`LoginError`].
pub fn log_in(host: Ipv4Addr, port: u16) -> Result<(), LoginError> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((host, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    handshake(&mut stream)
}

fn handshake(stream: &mut (impl Read + Write)) -> Result<(), LoginError> {
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    receive(stream, START)?;
    // With this capability the broker answers a wrong password with 403, and does not only close the connection.
    let capability = [&short("authentication_failure_close")[..], b"t\x01"].concat();
    let properties = [&short("capabilities")[..], b"F", &long(&capability)].concat();
    let start_ok = [long(&properties), short("PLAIN"), long(b"\x00guest\x00guest"), short("en_US")].concat();
    send(stream, START_OK, &start_ok)?;
    let tune = receive(stream, TUNE)?;
    let limits = tune.get(..6).ok_or(LoginError::NotAmqp)?;
    send(stream, TUNE_OK, &[limits, &[0, 0]].concat())?;
    send(stream, OPEN, &[&short("/")[..], &short(""), &[0]].concat())?;
    receive(stream, OPEN_OK)?;
    send(stream, CLOSE, &[&200_u16.to_be_bytes()[..], &short("bye"), &[0; 4]].concat())?;
    Ok(())
}

/// A text of at most 255 bytes.
fn short(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length], &text.as_bytes()[..usize::from(length)]].concat()
}

/// A text or a table.
fn long(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], data].concat()
}

fn send(stream: &mut impl Write, (class, method): Method, arguments: &[u8]) -> io::Result<()> {
    let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
    let frame = [&[1, 0, 0][..], &long(&payload), &[FRAME_END]].concat();
    stream.write_all(&frame)
}

/// The arguments of the next method on channel 0, which must be `expected`.
fn receive(stream: &mut impl Read, expected: Method) -> Result<Vec<u8>, LoginError> {
    let payload = loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head)?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        // 1: a method, 8: a heartbeat.
        if !matches!(head[0], 1 | 8) || size > FRAME_BYTES_MAX {
            return Err(LoginError::NotAmqp);
        }
        let mut payload = Vec::new();
        let read = stream.by_ref().take(u64::from(size) + 1).read_to_end(&mut payload)?;
        if payload.pop() != Some(FRAME_END) || read as u64 != u64::from(size) + 1 {
            return Err(LoginError::NotAmqp);
        }
        if head[0] == 1 {
            break payload;
        }
    };
    let (numbers, arguments) = payload.split_at_checked(4).ok_or(LoginError::NotAmqp)?;
    let method = (u16::from_be_bytes([numbers[0], numbers[1]]), u16::from_be_bytes([numbers[2], numbers[3]]));
    match (method, arguments) {
        (CLOSE, [code @ .., _]) if arguments.len() >= 3 => {
            let text = arguments[3..].get(..usize::from(arguments[2])).unwrap_or(&arguments[3..]);
            let code = u16::from_be_bytes([code[0], code[1]]);
            Err(LoginError::Refused(code, String::from_utf8_lossy(text).into_owned()))
        }
        (method, _) if method == expected => Ok(arguments.to_vec()),
        _ => Err(LoginError::NotAmqp),
    }
}

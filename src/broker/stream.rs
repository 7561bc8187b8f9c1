//! The stream under a connection to the broker, which is ours and not lapin's: lapin reads it on a thread of its own for as long
//! as it lasts, whatever becomes of who asked for the connection. So this stream can be ended from outside, and lapin's thread,
//! its memory and the socket end with it.

use std::{
    fmt,
    future::{Future, ready},
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::{Stream as Sequence, task::AtomicWaker};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::sieve::Sieve;

/// How many of the first bytes that came are kept: they tell what the peer speaks.
const FIRST: usize = 8;

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Carrier {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream that lapin gets.
#[derive(Debug)]
pub(super) struct Stream {
    carrier: Carrier,
    shared: Arc<SharedStream>,
    sieve: Option<Sieve>,
}

#[derive(Default)]
struct SharedStream {
    ended: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    first: Mutex<Vec<u8>>,
}

/// Ends a stream, once it is told to or dropped.
#[derive(Debug)]
pub(super) struct Ender(Arc<SharedStream>);

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Ender {
    /// Whoever reads or writes gets an error from here on.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
    }

    /// The first bytes that came.
    pub(super) fn first(&self) -> Vec<u8> {
        self.0.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.end();
    }
}

/// Does the same over either.
macro_rules! over {
    ($carrier:expr, $stream:ident => $action:expr) => {
        match $carrier.get_mut() {
            Carrier::Plain(stream) => {
                let $stream = Pin::new(stream);
                $action
            }
            Carrier::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $action
            }
        }
    };
}

impl Stream {
    /// A stream over `carrier`, and what ends it. With a `sieve`, what comes goes through it.
    pub(super) fn new(carrier: Carrier, sieve: Option<Sieve>) -> (Self, Ender) {
        let shared = Arc::new(SharedStream::default());
        (Self { carrier, shared: Arc::clone(&shared), sieve }, Ender(shared))
    }

    /// Reads what comes, through the sieve.
    fn poll_sieved(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let Some(sieve) = &mut self.sieve else { return self.poll_carrier(context, bytes) };
            let count = sieve.read(bytes);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let mut some = [0; 4096];
            let came = ready!(self.as_mut().poll_carrier(context, &mut some))?;
            let Some(sieve) = &mut self.sieve else { return Poll::Ready(Ok(0)) };
            sieve.put(&some[..came]);
            if came == 0 {
                return Poll::Ready(Ok(sieve.read(bytes)));
            }
        }
    }

    fn poll_carrier(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let shared = Arc::clone(&self.shared);
        let mut buffer = ReadBuf::new(bytes);
        ready!(over!(self.carrier(), stream => stream.poll_read(context, &mut buffer)))?;
        let mut first = shared.first.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = FIRST - first.len();
        first.extend(buffer.filled().iter().take(missing));
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// An error if it was ended; whoever waits is told when it is.
    fn check(&self, waker: &AtomicWaker, context: &Context<'_>) -> io::Result<()> {
        waker.register(context.waker());
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        Ok(())
    }

    fn carrier(self: Pin<&mut Self>) -> Pin<&mut Carrier> {
        Pin::new(&mut self.get_mut().carrier)
    }
}

impl futures_io::AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.check(&self.shared.reader, context)?;
        self.poll_sieved(context, bytes)
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(&self.shared.writer, context)?;
        over!(self.carrier(), stream => stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(&self.shared.writer, context)?;
        over!(self.carrier(), stream => stream.poll_flush(context))
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(&self.shared.writer, context)?;
        over!(self.carrier(), stream => stream.poll_shutdown(context))
    }
}

/// Tokio as lapin uses it, but for the streams, which are ours.
#[derive(Clone, Debug)]
pub(super) struct Kit(Tokio);

impl Kit {
    /// On the runtime that this is called in.
    pub(super) fn current() -> Self {
        Self(Tokio::current())
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Stream;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Never called: the stream is there before lapin begins.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        Err::<Stream, _>(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Sequence<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    /// As [`Kit::register`].
    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}

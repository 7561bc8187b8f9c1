//! The stream under a connection to the broker. lapin reads a stream on its own thread until the stream ends, even if
//! the caller has given up the connection. This stream can be ended from outside, which also ends lapin's thread and
//! frees its memory and the socket.

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

use super::property_filter::PropertyFilter;

/// Number of first bytes that are kept, to recognize the peer's protocol.
const FIRST: usize = 8;

/// The transport of the bytes.
#[derive(Debug)]
pub(super) enum Carrier {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The stream that lapin reads and writes.
#[derive(Debug)]
pub(super) struct Stream {
    carrier: Carrier,
    shared: Arc<SharedStream>,
    filter: Option<PropertyFilter>,
}

#[derive(Default)]
struct SharedStream {
    ended: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    first: Mutex<Vec<u8>>,
}

/// Ends a stream, on request or when dropped.
#[derive(Debug)]
pub(super) struct Ender(Arc<SharedStream>);

impl fmt::Debug for SharedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStream").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Ender {
    /// Ends the stream: reads and writes fail from now on.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
    }

    /// The first bytes that the peer sent.
    pub(super) fn first(&self) -> Vec<u8> {
        self.0.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Ender {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs `action` on either kind of transport.
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
    /// Creates a stream over `carrier`, and the handle that ends it. A `filter` processes all bytes that are read.
    pub(super) fn new(carrier: Carrier, filter: Option<PropertyFilter>) -> (Self, Ender) {
        let shared = Arc::new(SharedStream::default());
        (Self { carrier, shared: Arc::clone(&shared), filter }, Ender(shared))
    }

    /// Reads received bytes through the filter.
    fn poll_filtered(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let Some(filter) = &mut self.filter else { return self.poll_carrier(context, bytes) };
            let count = filter.read(bytes);
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
            let mut some = [0; 4096];
            let received = ready!(self.as_mut().poll_carrier(context, &mut some))?;
            let Some(filter) = &mut self.filter else { return Poll::Ready(Ok(0)) };
            filter.feed(&some[..received]);
            if received == 0 {
                return Poll::Ready(Ok(filter.read(bytes)));
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

    /// Fails if the stream was ended; otherwise registers the task to be woken when that happens.
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
        self.poll_filtered(context, bytes)
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

/// Tokio as lapin's runtime, with our own streams.
#[derive(Clone, Debug)]
pub(super) struct Kit(Tokio);

impl Kit {
    /// Uses the runtime of the caller.
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

    /// Never called: the stream exists before lapin starts.
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

    /// Never called, like [`Kit::register`].
    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}

//! Connects to a name with several addresses, some of which may not work: a peer that is down, a network that drops
//! packets, a host that accepts a connection and never responds. No address prevents attempts on the others.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::Obstacle;

/// Delay before a parallel attempt on the next address, as RFC 8305 recommends.
const STAGGER: Duration = Duration::from_millis(250);
/// Maximum number of addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Connects to one of the addresses of `host` and runs `begin` on the stream, within `limit`. Addresses are tried as in
/// RFC 8305. If `begin` fails, or takes longer than its share of the time, the other addresses are tried. A final
/// failure (`is_final`) ends the attempts, because every address would respond the same.
pub(crate) async fn dial<T, E, F: Future<Output = Result<T, E>>>(
    host: &str,
    port: u16,
    limit: Duration,
    unreached: impl Fn(Obstacle) -> E,
    begin: impl FnMut(TcpStream) -> F,
    is_final: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    let resolved = timeout_at(deadline, resolve(host, port)).await;
    let addresses = resolved.unwrap_or(Err(Obstacle::NameNotFound)).map_err(&unreached)?;
    dial_any(addresses, deadline, unreached, begin, is_final).await
}

async fn dial_any<T, E, F: Future<Output = Result<T, E>>>(
    mut addresses: Vec<SocketAddr>,
    deadline: Instant,
    unreached: impl Fn(Obstacle) -> E,
    mut begin: impl FnMut(TcpStream) -> F,
    is_final: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut last = None;
    while !addresses.is_empty() {
        let (stream, address) = match timeout_at(deadline, race(&addresses)).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(obstacle)) => return Err(last.unwrap_or_else(|| unreached(obstacle))),
            Err(_) => return Err(last.unwrap_or_else(|| unreached(Obstacle::TimedOut))),
        };
        addresses.retain(|one| *one != address);
        let others = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / others.saturating_add(1);
        match timeout(share, begin(stream)).await {
            Ok(Ok(made)) => return Ok(made),
            Ok(Err(error)) if is_final(&error) => return Err(error),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = Some(unreached(Obstacle::TimedOut)),
        }
    }
    Err(last.unwrap_or_else(|| unreached(Obstacle::NameNotFound)))
}

/// The addresses of `host`, with IPv4 and IPv6 interleaved.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Obstacle> {
    let found: Vec<_> = lookup_host((host, port)).await.map_err(|_| Obstacle::NameNotFound)?.collect();
    Ok(interleaved(found))
}

/// `addresses` in their order, with the two families interleaved and without duplicates.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|one| one.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return mixed;
        }
        for address in pair.into_iter().flatten() {
            if !mixed.contains(&address) && mixed.len() < ADDRESSES_MAX {
                mixed.push(address);
            }
        }
    }
}

/// The first established connection. The next address is tried when an attempt fails, or [`STAGGER`] after the previous
/// attempt.
async fn race(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Obstacle> {
    let mut left = addresses.iter().copied();
    let mut tries = FuturesUnordered::new();
    let mut obstacle = Obstacle::NameNotFound;
    let connect = |address| async move { (TcpStream::connect(address).await, address) }.boxed();
    tries.extend(left.next().map(connect));
    loop {
        let stagger = sleep(STAGGER);
        let more = left.len() > 0;
        tokio::select! {
            biased;
            ended = tries.next() => match ended {
                Some((Ok(stream), address)) => {
                    // Small frames must be sent immediately. A socket that refuses this option still works.
                    _ = stream.set_nodelay(true);
                    return Ok((stream, address));
                }
                Some((Err(error), _)) => {
                    obstacle = obstacle_of(&error);
                    tries.extend(left.next().map(connect));
                }
                None => return Err(obstacle),
            },
            () = stagger, if more => tries.extend(left.next().map(connect)),
        }
    }
}

fn obstacle_of(error: &io::Error) -> Obstacle {
    Obstacle::of_io(error.kind()).unwrap_or(Obstacle::Other)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[derive(Debug, PartialEq)]
    enum DialFailure {
        Obstacle(Obstacle),
        Final,
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that does not respond to a SYN, because its backlog is full.
    async fn unresponsive() -> (Vec<TcpStream>, std::net::TcpListener, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap().into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
            held.push(stream);
        }
        (held, listener, address)
    }

    #[tokio::test]
    async fn hanging_address_does_not_block_the_next_address() {
        let (held, _listener, hangs) = unresponsive().await;
        let (_other, answers) = listener().await;
        let connected = timeout(SOON, race(&[hangs, answers])).await.unwrap().unwrap();
        assert_eq!(connected.1, answers);
        drop(held);
    }

    #[tokio::test]
    async fn refusing_address_is_followed_by_the_next_address() {
        let (gone, refuses) = listener().await;
        drop(gone);
        let (_other, answers) = listener().await;
        assert_eq!(race(&[refuses, answers]).await.unwrap().1, answers);
        assert_eq!(race(&[refuses]).await.unwrap_err(), Obstacle::Refused);
    }

    /// A handshake that hangs or fails is repeated on the next address; a final failure ends the attempts.
    #[tokio::test]
    async fn failed_handshake_is_repeated_on_the_next_address() {
        let (_one, first) = listener().await;
        let (_two, second) = listener().await;
        let tried = Mutex::new(Vec::new());
        let begin = |hangs: bool, failure: Option<DialFailure>| {
            let (tried, failure) = (&tried, Mutex::new(failure));
            move |stream: TcpStream| {
                tried.lock().unwrap().push(stream.peer_addr().unwrap());
                let (is_first, failure) =
                    (stream.peer_addr().unwrap() == first, failure.lock().unwrap().take());
                async move {
                    match (is_first, failure) {
                        (true, _) if hangs => std::future::pending().await,
                        (true, Some(failure)) => Err(failure),
                        _ => Ok(stream.peer_addr().unwrap()),
                    }
                }
            }
        };
        let both = || vec![first, second];
        let soon = || Instant::now() + SOON;
        let is_final = |failure: &DialFailure| *failure == DialFailure::Final;
        let reached = dial_any(
            both(),
            Instant::now() + Duration::from_secs(2),
            DialFailure::Obstacle,
            begin(true, None),
            is_final,
        )
        .await;
        assert_eq!(reached, Ok(second));
        let failed = begin(false, Some(DialFailure::Obstacle(Obstacle::Expired)));
        assert_eq!(dial_any(both(), soon(), DialFailure::Obstacle, failed, is_final).await, Ok(second));
        assert_eq!(*tried.lock().unwrap(), [first, second, first, second]);
        let answered = begin(false, Some(DialFailure::Final));
        assert_eq!(
            dial_any(both(), soon(), DialFailure::Obstacle, answered, is_final).await,
            Err(DialFailure::Final)
        );
        let none: Result<Infallible, DialFailure> = dial_any(
            Vec::new(),
            soon(),
            DialFailure::Obstacle,
            |_| async { Err(DialFailure::Final) },
            is_final,
        )
        .await;
        assert_eq!(none.unwrap_err(), DialFailure::Obstacle(Obstacle::NameNotFound));
    }

    #[test]
    fn address_families_are_interleaved_without_duplicates() {
        let of = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = of(&["[::1]:1", "[::2]:1", "1.0.0.1:1", "1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1"]);
        let expected = of(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "1.0.0.3:1"]);
        assert_eq!(interleaved(found), expected);
    }
}

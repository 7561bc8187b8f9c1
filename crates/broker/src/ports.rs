//! Free TCP ports.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    io, iter,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// Below the range of outgoing connections.
const FIRST: u16 = 10_000;
const COUNT: u64 = 20_000;
const TRIES: usize = 1000;

/// The ports that this process was given.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on which nothing listens, for a program that is to listen on it. Outgoing connections do not take it, and this
/// process is given it once only. Another process may still take it first.
///
/// # Errors
/// `AddrInUse` if all of many random ports are taken, or the last failure to listen.
pub fn free_port() -> io::Result<u16> {
    let candidate = || FIRST + u16::try_from(random() % COUNT).unwrap_or_default();
    first_free(iter::repeat_with(candidate).take(TRIES))
}

fn first_free(candidates: impl IntoIterator<Item = u16>) -> io::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut failure = None;
    for port in candidates {
        if given.contains(&port) {
            continue;
        }
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => {
                given.insert(port);
                return Ok(port);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// A random number. Each `RandomState` has new keys.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

// No test listens on a port that it was given: until a child of another test has called exec, it may still hold the listener
// of `first_free`.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_below_those_of_outgoing_connections() {
        let ports: BTreeSet<_> = iter::repeat_with(|| free_port().unwrap()).take(200).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| (10_000..30_000).contains(port)), "{ports:?}");
    }

    #[test]
    fn port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert_eq!(first_free([taken]).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn port_is_given_once() {
        let port = free_port().unwrap();
        assert_eq!(first_free([port]).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}

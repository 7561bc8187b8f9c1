//! Free TCP ports.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Below the range of outgoing connections.
const FIRST: u16 = 10_000;
const COUNT: u64 = 20_000;

/// Two different ports on which nothing listens.
pub(crate) fn two_free() -> io::Result<(u16, u16)> {
    let first = free(0)?;
    Ok((first, free(first)?))
}

/// A free port other than `taken`.
fn free(taken: u16) -> io::Result<u16> {
    let mut failure = None;
    for _ in 0..1000 {
        let offset = u16::try_from(random() % COUNT).unwrap_or_default();
        let port = FIRST + offset;
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) if port != taken => return Ok(port),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// A random number. Each `RandomState` has new keys.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_accept_a_listener() {
        let (first, second) = two_free().unwrap();
        assert_ne!(first, second);
        let _both = [first, second].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    }
}

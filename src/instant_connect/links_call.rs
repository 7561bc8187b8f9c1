//! The split of a session's links into calls of at most [`LINKS_MAX`] links.

use std::ops::Range;

/// Maximum number of links in one call, hosts and guests together (Guide).
pub const LINKS_MAX: usize = 25;

/// The people for whom one call requests links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinksCall {
    /// Positions among the experts.
    pub hosts: Range<usize>,
    /// Positions among the guests.
    pub guests: Range<usize>,
}

impl LinksCall {
    /// The next call of a session with `hosts` and `guests` of which `links` are made. Hosts come first, with at most
    /// [`LINKS_MAX`] links. `None` if all links are made.
    #[must_use]
    pub fn after(links: usize, hosts: usize, guests: usize) -> Option<Self> {
        let all = hosts + guests;
        let end = (links + LINKS_MAX).min(all);
        (links < all).then(|| Self {
            hosts: links.min(hosts)..end.min(hosts),
            guests: links.max(hosts) - hosts..end.max(hosts) - hosts,
        })
    }

    /// Number of requested links.
    #[must_use]
    pub fn links(&self) -> usize {
        self.hosts.len() + self.guests.len()
    }

    /// True for the first call of a session, because every session has an expert.
    pub(super) const fn is_first(&self) -> bool {
        self.hosts.start == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_person_is_in_exactly_one_call_within_the_limit(hosts in 1usize..80, guests in 1usize..400) {
            let mut made = 0;
            let calls: Vec<_> = std::iter::from_fn(|| {
                LinksCall::after(made, hosts, guests).inspect(|call| made += call.links())
            })
            .collect();
            prop_assert!(calls.iter().all(|c| (1..=LINKS_MAX).contains(&c.links())));
            let all_hosts: Vec<_> = calls.iter().flat_map(|c| c.hosts.clone()).collect();
            let all_guests: Vec<_> = calls.iter().flat_map(|c| c.guests.clone()).collect();
            prop_assert_eq!(all_hosts, (0..hosts).collect::<Vec<_>>());
            prop_assert_eq!(all_guests, (0..guests).collect::<Vec<_>>());
            prop_assert!(!calls[0].hosts.is_empty(), "the call with the devices has a host");
            prop_assert!(calls.iter().enumerate().all(|(number, call)| call.is_first() == (number == 0)));
        }
    }
}

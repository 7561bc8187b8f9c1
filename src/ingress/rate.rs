//! Token buckets, for clients and for addresses.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Maximum number of addresses with a bucket of their own. Further addresses share one.
const ADDRESSES_MAX: usize = 4096;
/// The key of the bucket that further addresses share.
const SHARED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Fill rate and capacity of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct BucketSize {
    /// Permits per second.
    pub(super) rate: f64,
    /// Maximum number of permits.
    pub(super) burst: f64,
}

/// The content of a bucket at a time.
#[derive(Clone, Copy, Debug)]
struct BucketLevel {
    permits: f64,
    at: Instant,
}

impl BucketLevel {
    fn full(size: BucketSize) -> Self {
        Self { permits: size.burst, at: Instant::now() }
    }

    fn fill(&mut self, size: BucketSize) {
        let now = Instant::now();
        let new = now.saturating_duration_since(self.at).as_secs_f64() * size.rate;
        (self.permits, self.at) = ((self.permits + new).min(size.burst), now);
    }

    /// Takes `permits`, or returns the time until it can. More than a burst needs a full bucket, which then stays empty until the
    /// rate has filled what was taken beyond it.
    fn take(&mut self, size: BucketSize, permits: f64) -> Result<(), Duration> {
        self.fill(size);
        let needed = permits.min(size.burst);
        if self.permits >= needed {
            self.permits -= permits;
            return Ok(());
        }
        Err(Duration::try_from_secs_f64((needed - self.permits) / size.rate).unwrap_or(Duration::MAX))
    }
}

/// The buckets of one client: one for requests, and one for the people who get a message.
#[derive(Debug)]
pub(super) struct ClientBuckets {
    size: BucketSize,
    requests: Mutex<BucketLevel>,
    people: Mutex<BucketLevel>,
}

impl ClientBuckets {
    /// Two full buckets.
    pub(super) fn new(size: BucketSize) -> Self {
        let full = || Mutex::new(BucketLevel::full(size));
        Self { size, requests: full(), people: full() }
    }

    /// Takes a permit for a request, or returns the time until there is one.
    pub(super) fn take_request(&self) -> Result<(), Duration> {
        lock(&self.requests).take(self.size, 1.0)
    }

    /// Takes the permits for `people`, or returns the time until it can. Nobody needs none, also if more than all are taken.
    pub(super) fn take_people(&self, people: usize) -> Result<(), Duration> {
        if people == 0 {
            return Ok(());
        }
        lock(&self.people).take(self.size, permits(people))
    }

    /// Gives the permits for `people` back, who get no message.
    pub(super) fn give_back(&self, people: usize) {
        lock(&self.people).permits += permits(people);
    }
}

fn permits(people: usize) -> f64 {
    f64::from(u32::try_from(people).unwrap_or(u32::MAX))
}

fn lock(level: &Mutex<BucketLevel>) -> MutexGuard<'_, BucketLevel> {
    level.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bucket for each address, and for each network of 64 bits of IPv6.
#[derive(Debug)]
pub(super) struct AddressBuckets {
    size: BucketSize,
    levels: Mutex<HashMap<IpAddr, BucketLevel>>,
}

impl AddressBuckets {
    pub(super) fn new(size: BucketSize) -> Self {
        Self { size, levels: Mutex::default() }
    }

    /// The time until the bucket of `address` has a permit; `None` if it has one.
    pub(super) fn wait(&self, address: IpAddr) -> Option<Duration> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = || levels.get(&SHARED).filter(|_| levels.len() >= ADDRESSES_MAX);
        let mut level = *levels.get(&network(address)).or_else(shared)?;
        level.take(self.size, 1.0).err()
    }

    /// Takes a permit of the bucket of `address`, or returns the time until there is one.
    pub(super) fn take(&self, address: IpAddr) -> Result<(), Duration> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = network(address);
        if levels.len() >= ADDRESSES_MAX && !levels.contains_key(&key) {
            levels.retain(|_, level| {
                level.fill(self.size);
                level.permits < self.size.burst
            });
            if levels.len() >= ADDRESSES_MAX {
                key = SHARED;
            }
        }
        levels.entry(key).or_insert_with(|| BucketLevel::full(self.size)).take(self.size, 1.0)
    }
}

/// One customer has 64 bits of IPv6 addresses or more.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SIZE: BucketSize = BucketSize { rate: 2.0, burst: 3.0 };

    #[tokio::test(start_paused = true)]
    async fn requests_are_allowed_in_a_burst_and_then_at_the_rate() {
        let buckets = ClientBuckets::new(SIZE);
        for _ in 0..3 {
            buckets.take_request().unwrap();
        }
        assert_eq!(buckets.take_request(), Err(Duration::from_millis(500)));
        advance(Duration::from_millis(500)).await;
        buckets.take_request().unwrap();
        assert!(buckets.take_request().is_err());
        advance(Duration::from_secs(3600)).await;
        assert_eq!((0..9).filter(|_| buckets.take_request().is_ok()).count(), 3, "never more than a burst");
    }

    #[tokio::test(start_paused = true)]
    async fn people_take_a_permit_each_also_beyond_the_burst() {
        let buckets = ClientBuckets::new(SIZE);
        buckets.take_people(2).unwrap();
        assert_eq!(buckets.take_people(2), Err(Duration::from_millis(500)), "one permit is left");
        buckets.take_people(0).unwrap();
        buckets.take_people(1).unwrap();
        advance(Duration::from_secs(3600)).await;
        buckets.take_people(1000).unwrap();
        // 997 beyond the burst, and one for the next.
        assert_eq!(buckets.take_people(1), Err(Duration::from_secs(499)), "the rate must make up for all");
        buckets.take_people(0).unwrap();
        buckets.take_request().unwrap();
        buckets.give_back(1000);
        buckets.take_people(3).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_have_buckets_of_their_own_within_a_bound() {
        let buckets = AddressBuckets::new(BucketSize { rate: 1.0, burst: 1.0 });
        let first: IpAddr = "2001:db8::1".parse().unwrap();
        buckets.take(first).unwrap();
        let same = "2001:db8::2".parse().unwrap();
        assert!(buckets.take(same).is_err(), "the same network");
        assert_eq!(buckets.wait(same), Some(Duration::from_secs(1)));
        assert_eq!(buckets.wait("2001:db8:1::".parse().unwrap()), None);
        for number in 0..2 * ADDRESSES_MAX {
            _ = buckets.take(IpAddr::V4(u32::try_from(number).unwrap().into()));
        }
        assert!(buckets.levels.lock().unwrap().len() <= ADDRESSES_MAX + 1);
        assert!(buckets.take("192.0.2.1".parse().unwrap()).is_err(), "the shared bucket is empty");
        assert!(buckets.wait("192.0.2.1".parse().unwrap()).is_some());
        advance(Duration::from_secs(1)).await;
        assert_eq!(buckets.wait("192.0.2.1".parse().unwrap()), None);
        buckets.take("192.0.2.1".parse().unwrap()).unwrap();
        assert!(buckets.levels.lock().unwrap().len() < 10, "full buckets are forgotten");
    }
}

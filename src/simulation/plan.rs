//! What a seed decides beforehand: how much is to be done, how the worker is set up, and how often what goes wrong. Each
//! kind of trouble is left out by some seeds, so that none hides another.

use std::time::Duration;

use fastrand::Rng;

/// One seed's world.
#[derive(Clone, Debug)]
pub(super) struct WorldPlan {
    /// Start events.
    pub(super) events: usize,
    /// They come within this time.
    pub(super) spread: Duration,
    /// Troubles come until then; after that everything works.
    pub(super) troubled: Duration,
    pub(super) prefetch: u16,
    pub(super) concurrency: usize,
    pub(super) attempts: u32,
    pub(super) delays: Vec<Duration>,
    pub(super) grace: Duration,
    /// Shares of the places where the worker dies.
    pub(super) crash: f64,
    /// Shares of publishes.
    pub(super) nacked: f64,
    pub(super) unconfirmed: f64,
    pub(super) lost: f64,
    /// Share of acknowledgements that take effect later than they are written.
    pub(super) late_ack: f64,
    /// Share of calls that go wrong.
    pub(super) bad_answer: f64,
    /// Share of what is asked of the ledger.
    pub(super) ledger: f64,
    /// How many of each of the troubles that come and go.
    pub(super) crashes: u32,
    pub(super) shutdowns: u32,
    pub(super) disconnects: u32,
    pub(super) broker_restarts: u32,
    pub(super) outages: u32,
    pub(super) rate_limits: u32,
    pub(super) token_rotations: u32,
    pub(super) unbound: u32,
    pub(super) ledger_outages: u32,
    /// Longest that a delivery is kept, and workers that may die over a message.
    pub(super) delivery_timeout: Duration,
    pub(super) deliveries_max: u32,
    /// Nothing can be published for all the time of troubles.
    pub(super) full: bool,
}

impl WorldPlan {
    pub(super) fn new(random: &mut Rng) -> Self {
        let mut share = |most: f64| if random.bool() { 0.0 } else { random.f64() * most };
        let (crash, nacked, unconfirmed, lost) = (share(0.01), share(0.1), share(0.1), share(0.1));
        let (late_ack, bad_answer, ledger) = (share(0.3), share(0.6), share(0.1));
        let mut some = |most: u32| if random.bool() { 0 } else { random.u32(1..=most) };
        let (crashes, shutdowns, disconnects, broker_restarts) = (some(4), some(2), some(5), some(2));
        let (outages, rate_limits, token_rotations) = (some(2), some(2), some(2));
        let (unbound, ledger_outages) = (some(1), some(1));
        let concurrency = random.usize(1..=8);
        let ladders: [&[u64]; 3] =
            [&[1_000, 5_000, 30_000, 120_000, 600_000], &[500, 4_000, 20_000], &[2_000]];
        let ladder = ladders[if random.u32(..3) > 0 { 0 } else { random.usize(..3) }];
        Self {
            events: random.usize(1..=16),
            spread: Duration::from_secs(random.u64(1..=120)),
            troubled: Duration::from_secs(random.u64(30..=300)),
            prefetch: u16::try_from(concurrency + random.usize(..8)).unwrap_or(u16::MAX),
            concurrency,
            attempts: random.u32(2..=8),
            delays: ladder.iter().map(|ms| Duration::from_millis(*ms)).collect(),
            grace: Duration::from_secs(random.u64(1..=25)),
            crash,
            nacked,
            unconfirmed,
            lost,
            late_ack,
            bad_answer,
            ledger,
            crashes,
            shutdowns,
            disconnects,
            broker_restarts,
            outages,
            rate_limits,
            token_rotations,
            unbound,
            ledger_outages,
            delivery_timeout: Duration::from_secs(1200),
            deliveries_max: 20,
            full: false,
        }
    }

    /// All queues are full for so long that each event is given back again and again.
    pub(super) fn fill(&mut self) {
        (self.full, self.nacked) = (true, 1.0);
        (self.delivery_timeout, self.deliveries_max) = (Duration::from_secs(25), 5);
        self.troubled = Duration::from_secs(300);
    }

    /// From here on everything works.
    pub(super) fn calm(&mut self) {
        let shares = [
            &mut self.crash,
            &mut self.nacked,
            &mut self.unconfirmed,
            &mut self.lost,
            &mut self.late_ack,
            &mut self.bad_answer,
            &mut self.ledger,
        ];
        for share in shares {
            *share = 0.0;
        }
    }
}

//! Choices that a seed makes in advance: the amount of work, the worker's settings, and the frequency of each fault.
//! Some seeds leave out a kind of fault, so that no kind hides another.

use std::time::Duration;

use fastrand::Rng;
use instant_connect_worker::{
    contract::stage::StageDef,
    stages::{GuestsDelivery, OnUnknown},
};

/// The plan of one seed's world.
#[derive(Clone, Debug)]
pub(crate) struct WorldPlan {
    /// Number of start events.
    pub(crate) events: usize,
    /// The time within which the events are sent.
    pub(crate) spread: Duration,
    /// Faults occur during this time; after it everything works.
    pub(crate) troubled: Duration,
    pub(crate) prefetch: u16,
    pub(crate) concurrency: usize,
    pub(crate) attempts: u32,
    pub(crate) delays: Vec<Duration>,
    pub(crate) grace: Duration,
    /// Probability that the worker dies at a given place.
    pub(crate) crash: f64,
    /// Probabilities for a publish.
    pub(crate) nacked: f64,
    pub(crate) unconfirmed: f64,
    pub(crate) lost: f64,
    /// Probability that an ack takes effect later than it is sent.
    pub(crate) late_ack: f64,
    /// Probability that a call fails.
    pub(crate) bad_answer: f64,
    /// Probability that a ledger operation fails.
    pub(crate) ledger: f64,
    /// Number of faults of each kind.
    pub(crate) crashes: u32,
    pub(crate) shutdowns: u32,
    pub(crate) disconnects: u32,
    pub(crate) broker_restarts: u32,
    pub(crate) outages: u32,
    pub(crate) rate_limits: u32,
    pub(crate) token_rotations: u32,
    pub(crate) unbound: u32,
    pub(crate) ledger_outages: u32,
    /// True if the worker declares what is missing.
    pub(crate) creates: bool,
    pub(crate) alarms: u32,
    pub(crate) deletions: u32,
    pub(crate) stalls: u32,
    /// Maximum processing time per delivery, and deliveries before a message is set aside.
    pub(crate) delivery_timeout: Duration,
    pub(crate) deliveries_max: u32,
    /// No publish succeeds while faults occur.
    pub(crate) full: bool,
    /// Choices for a worker that sends the guest links itself; `None` if other programs send them.
    pub(crate) senders: Option<SendersPlan>,
}

/// The plan for the stages that send guest links, and for the ingress.
#[derive(Clone, Debug)]
pub(crate) struct SendersPlan {
    pub(crate) min_remaining: Duration,
    pub(crate) on_unknown: OnUnknown,
    /// `None`: receipts are off.
    pub(crate) receipt_wait: Option<Duration>,
    /// Maximum number of messages of a stage per second.
    pub(crate) rate: Option<u32>,
    /// The number of the event whose guests have numbers without an allowed prefix.
    pub(crate) foreign: u32,
    /// Stage `link` refuses these numbers too.
    pub(crate) link_refuses: bool,
    /// Of so many events, a client of the ingress sends one.
    pub(crate) over_http: usize,
    /// The number of the event whose guests' messages are never answered: they arrive or not.
    pub(crate) unanswered: Option<u32>,
    /// Probability that Webex Connect never sends the receipts of a message.
    pub(crate) no_receipt: f64,
}

/// The events of simulations have numbers below this, or beginning with 8 or 9.
const LOW_NUMBERS: u32 = 20;

impl SendersPlan {
    /// The choices of `seed`, from a generator of their own.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(!seed.rotate_left(17));
        // A generator of its own, so that the other choices stay the same.
        let mut more = Rng::with_seed(seed.rotate_left(29));
        let waits = [5, 20, 45].map(Duration::from_secs);
        Self {
            min_remaining: Duration::from_secs([0, 2, 15, 60][random.usize(..4)]),
            on_unknown: if random.u32(..4) == 0 { OnUnknown::Dead } else { OnUnknown::Repeat },
            receipt_wait: (random.u32(..4) > 0).then(|| waits[random.usize(..3)]),
            rate: (random.u32(..4) == 0).then(|| random.u32(4..=20)),
            foreign: random.u32(1..LOW_NUMBERS),
            link_refuses: random.u32(..4) == 0,
            unanswered: more.bool().then(|| more.u32(1..LOW_NUMBERS)),
            over_http: random.usize(1..=3),
            no_receipt: if random.bool() { 0.1 } else { random.f64() },
        }
    }

    /// The allowed prefixes: those of all events except one.
    pub(crate) fn prefixes(&self) -> Vec<String> {
        let low = (0..LOW_NUMBERS).filter(|number| *number != self.foreign);
        low.map(|number| format!("+34600{number:03}"))
            .chain(["+346008", "+346009"].map(str::to_owned))
            .collect()
    }
}

impl WorldPlan {
    pub(crate) fn new(random: &mut Rng) -> Self {
        let mut share = |most: f64| if random.bool() { 0.0 } else { random.f64() * most };
        let (crash, nacked, unconfirmed, lost) = (share(0.01), share(0.1), share(0.1), share(0.1));
        let (late_ack, bad_answer, ledger) = (share(0.3), share(0.6), share(0.1));
        let mut some = |most: u32| if random.bool() { 0 } else { random.u32(1..=most) };
        let (crashes, shutdowns, disconnects, broker_restarts) = (some(4), some(2), some(5), some(2));
        let (outages, rate_limits, token_rotations) = (some(2), some(2), some(2));
        let (_, ledger_outages) = (some(1), some(1));
        let concurrency = random.usize(1..=8);
        // A generator of its own, so that the other choices stay the same.
        let mut more = random.clone();
        let mut few = |most: u32| if more.bool() { 0 } else { more.u32(1..=most) };
        let (alarms, deletions, stalls, unbound) = (few(2), few(3), few(2), few(3));
        let creates = more.u32(..4) > 0;
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
            creates,
            alarms,
            deletions,
            stalls,
            delivery_timeout: Duration::from_secs(1200),
            deliveries_max: 20,
            full: false,
            senders: None,
        }
    }

    /// The worker's stages.
    pub(crate) fn stages(&self) -> &'static [&'static StageDef] {
        let delivery =
            if self.senders.is_some() { GuestsDelivery::WebexConnect } else { GuestsDelivery::Amqp };
        delivery.stages()
    }

    /// True if the worker takes receipts.
    pub(crate) fn takes_receipts(&self) -> bool {
        self.senders.as_ref().is_some_and(|senders| senders.receipt_wait.is_some())
    }

    /// Makes all queues full for so long that each event is requeued several times.
    pub(crate) fn fill(&mut self) {
        (self.full, self.nacked) = (true, 1.0);
        (self.delivery_timeout, self.deliveries_max) = (Duration::from_secs(25), 5);
        self.troubled = Duration::from_secs(300);
    }

    /// Ends all random faults.
    pub(crate) fn calm(&mut self) {
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

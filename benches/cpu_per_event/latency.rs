//! Latencies at a steady rate. Events are published at their set times, however long earlier ones take (open loop), and
//! each latency counts from the set time, so a slow contender or a late publish shows in the result.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions},
    types::FieldTable,
};
use serde::Serialize;
use tokio::{runtime::Handle, time::sleep};

use super::{
    contender::Contender,
    fake::{now_ns, number_after},
    stats::Percentiles,
    testbed::{KEY, SESSION, Testbed, event},
};

/// The latencies of a contender, in milliseconds.
#[derive(Serialize)]
pub(crate) struct Latency {
    #[serde(flatten)]
    pub(crate) contender: Contender,
    pub(crate) delay_ms: usize,
    pub(crate) seconds: usize,
    /// Events per second.
    pub(crate) rate: usize,
    /// Events per second until the last message. If it is below `rate`, the contender was too slow.
    pub(crate) reached: f64,
    /// Until the guest's link is delivered from the guests' queue, a quorum queue. The broker confirms the link at the same time.
    pub(crate) guest: Percentiles,
    /// Until the expert's message arrives at the fake API.
    pub(crate) expert: Percentiles,
    /// Until the publish of the event.
    pub(crate) publish: Percentiles,
}

/// Arrivals of links by the event's number, in nanoseconds since 1970; 0 if one has not arrived.
type Arrivals = Arc<Mutex<Vec<u64>>>;

impl Latency {
    /// Measures `contender` for `seconds`.
    pub(crate) async fn measure(
        contender: &Contender,
        (delay_ms, concurrency): (usize, usize),
        (rate, seconds): (usize, usize),
    ) -> Self {
        let testbed = Testbed::new(delay_ms, concurrency).await;
        // lapin's connection closes when it is dropped.
        let connection = Connection::connect(&testbed.url, ConnectionProperties::default()).await.unwrap();
        let links = consume(&connection, testbed.name("guests")).await;
        let mut process = testbed.start(contender);
        let first = testbed.warm_up(&mut process).await;
        let count = rate * seconds;
        let channel = connection.create_channel().await.unwrap();
        let (exchange, handle) = (testbed.name("sessions"), Handle::current());
        let publishing =
            tokio::task::spawn_blocking(move || publish(&handle, &channel, &exchange, first, count, rate));
        let (intended, published) = publishing.await.unwrap();
        process.until(testbed.apis.until(first + count)).await;
        let guests = arrived(&links, first, count).await;
        let experts = testbed.apis.arrivals().await.split_off(first);
        drop(process);
        testbed.clean_up().await;
        let last = guests.iter().chain(&experts).max().unwrap();
        // The first tenth is a warm-up.
        let since = |arrivals: &[u64]| {
            let latencies = arrivals.iter().zip(&intended).map(|(arrival, intended)| ms(*intended, *arrival));
            Percentiles::of(latencies.skip(count / 10).collect())
        };
        Self {
            contender: contender.clone(),
            delay_ms,
            seconds,
            rate,
            reached: f64::from(u32::try_from(count).unwrap()) / ms(intended[0], *last) * 1e3,
            guest: since(&guests),
            expert: since(&experts),
            publish: since(&published),
        }
    }
}

/// Milliseconds between two times.
fn ms(from: u64, to: u64) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e3
}

/// Publishes `count` events. Returns the set times and the times of the publishes. On a thread of its own, because the
/// runtime's timers have a resolution of only a millisecond.
fn publish(
    handle: &Handle,
    channel: &Channel,
    exchange: &str,
    first: usize,
    count: usize,
    rate: usize,
) -> (Vec<u64>, Vec<u64>) {
    let events: Vec<_> = (first..first + count).map(event).collect();
    let interval = Duration::from_secs(1).as_nanos() / rate as u128;
    let start = now_ns() + 1_000_000;
    let intended: Vec<u64> =
        (0..count as u128).map(|n| start + u64::try_from(n * interval).unwrap()).collect();
    let mut published = Vec::with_capacity(count);
    for ((properties, body), intended) in events.into_iter().zip(&intended) {
        thread::sleep(Duration::from_nanos(intended.saturating_sub(now_ns())));
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(exchange.into(), KEY.into(), options, &body, properties);
        handle.block_on(sent).unwrap();
        published.push(now_ns());
    }
    (intended, published)
}

/// Consumes the queue of the guests' links.
async fn consume(connection: &Connection, queue: String) -> Arrivals {
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = consumer.await.unwrap();
    let links = Arrivals::default();
    let arrivals = Arc::clone(&links);
    tokio::spawn(async move {
        let _open = channel;
        while let Some(Ok(delivery)) = consumer.next().await {
            let now = now_ns();
            let event = number_after(&delivery.data, SESSION).expect("a link names its session");
            let mut arrivals = arrivals.lock().unwrap();
            if arrivals.len() <= event {
                arrivals.resize(event + 1, 0);
            }
            if arrivals[event] == 0 {
                arrivals[event] = now;
            }
        }
    });
    links
}

/// Waits for the links of `count` events from `first` on.
async fn arrived(links: &Arrivals, first: usize, count: usize) -> Vec<u64> {
    loop {
        if let Some(times) = links.lock().unwrap().get(first..first + count)
            && !times.contains(&0)
        {
            return times.to_vec();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

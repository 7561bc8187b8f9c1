//! Time from the start of the process to the first processed event.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use super::{contender::Contender, fake::now_ns, testbed::Testbed};

/// The starts of a contender. The topology exists, and one event waits in the queue.
#[derive(Serialize)]
pub(crate) struct Starts {
    #[serde(flatten)]
    pub(crate) contender: Contender,
    /// Until the expert's message arrives at the fake API, in milliseconds.
    pub(crate) first_event_ms: Vec<f64>,
    /// Resident memory after the event, in MiB.
    pub(crate) idle_mib: Vec<f64>,
}

impl Starts {
    /// Starts `contender` as often as `starts` says. The APIs respond without a delay.
    pub(crate) async fn measure(contender: &Contender, concurrency: usize, starts: usize) -> Self {
        let testbed = Testbed::new(0, concurrency).await;
        let mut result =
            Self { contender: contender.clone(), first_event_ms: Vec::new(), idle_mib: Vec::new() };
        for event in 0..starts {
            testbed.publish(event..event + 1).await;
            let began = now_ns();
            let mut process = testbed.start(contender);
            process.until(testbed.apis.until(event + 1)).await;
            let took = testbed.apis.arrivals().await[event] - began;
            result.first_event_ms.push(Duration::from_nanos(took).as_secs_f64() * 1e3);
            sleep(Duration::from_millis(500)).await;
            result.idle_mib.push(process.snapshot().resident_mib());
            process.stop().await;
        }
        testbed.clean_up().await;
        result
    }
}

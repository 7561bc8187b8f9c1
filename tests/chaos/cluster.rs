//! A three-node cluster that loses its nodes one after another, and its majority.

use super::testbed::{Plan, Testbed};

/// Number of events before a fault, and during it.
const SHARE: u32 = 100;

async fn testbed(events: u32) -> Testbed {
    let mut testbed = Testbed::start(Plan { events, nodes: 3, ..Plan::default() }).await;
    testbed.let_queues_settle().await;
    testbed.allow(SHARE);
    testbed.publish();
    testbed.history.until_finished(SHARE / 2).await;
    testbed
}

/// Waits for the first event that the remaining nodes process.
async fn until_processing_again(testbed: &Testbed, what: &'static str) {
    testbed.history.healed(what);
    testbed.allow_more(SHARE);
    testbed.history.until_recovered().await;
}

async fn kill_and_start_again(testbed: &Testbed, what: &'static str, node: usize) {
    testbed.allow_more(SHARE);
    testbed.history.disturbed(what);
    testbed.nodes().kill(node).await;
    until_processing_again(testbed, what).await;
    testbed.nodes().start_again(node).await;
}

/// Uses one cluster for all faults, because starting a cluster takes as long as two of the faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_cluster_loses_node_leader_and_majority_then_restarts() {
    let mut testbed = testbed(1500).await;
    let node = testbed.nodes().of_connection("consume link", 0).await;
    kill_and_start_again(&testbed, "the worker's node killed", node).await;
    let node = testbed.nodes().leader_of(&testbed.name("sessions"), 0).await;
    kill_and_start_again(&testbed, "a queue's leader killed", node).await;
    lose_the_majority(&mut testbed).await;
    for node in 0..3 {
        testbed.allow_more(SHARE);
        testbed.history.disturbed("node restarted");
        testbed.nodes().stop(node).await;
        until_processing_again(&testbed, "node restarted").await;
        testbed.nodes().start_again(node).await;
    }
    testbed.finish().await.assert();
}

async fn lose_the_majority(testbed: &mut Testbed) {
    testbed.allow_more(SHARE);
    testbed.history.disturbed("majority killed");
    for node in [1, 2] {
        testbed.nodes().kill(node).await;
    }
    // A worker that starts now gets no response from the queues, and waits like a worker that was connected before.
    testbed.history.disturbed("worker killed");
    testbed.workers[0].take().unwrap().kill();
    testbed.launch_worker(0);
    testbed.workers[0].as_ref().unwrap().until_logged("could not connect to broker", 3).await;
    for node in [1, 2] {
        testbed.nodes().start_again(node).await;
    }
    until_processing_again(testbed, "majority killed").await;
}

/// Until the other nodes drop the paused node, they route to its queues' old leaders. No client can change that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_cluster_continues_while_one_node_is_cut_off() {
    let testbed = testbed(500).await;
    testbed.nodes().set_net_ticktime(8).await;
    let node = testbed.nodes().leader_of(&testbed.name("hosts"), 0).await;
    testbed.allow_more(SHARE);
    testbed.history.disturbed("node cut off");
    testbed.nodes().pause(node).await;
    until_processing_again(&testbed, "node cut off").await;
    testbed.nodes().resume(node).await;
    testbed.finish().await.assert();
}

//! A cluster of three nodes that loses one after the other, and its majority.

use super::field::{Field, Plan};

/// So many events come before a trouble, and as many when it is there.
const SHARE: u32 = 100;

async fn field(events: u32) -> Field {
    let mut field = Field::start(Plan { events, nodes: 3, ..Plan::default() }).await;
    field.let_queues_settle().await;
    field.allow(SHARE);
    field.publish();
    field.history.until_finished(SHARE / 2).await;
    field
}

/// Waits for the first event that is served by what is left.
async fn until_served_again(field: &Field, what: &'static str) {
    field.history.healed(what);
    field.allow_more(SHARE);
    field.history.until_recovered().await;
}

async fn kill_and_start_again(field: &Field, what: &'static str, node: usize) {
    field.allow_more(SHARE);
    field.history.disturbed(what);
    field.nodes().kill(node).await;
    until_served_again(field, what).await;
    field.nodes().start_again(node).await;
}

/// One cluster for all of it: to make one takes as long as two of these troubles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_cluster_loses_a_node_its_leader_and_its_majority_and_is_restarted_node_by_node() {
    let mut field = field(1500).await;
    let node = field.nodes().of_connection("consume link", 0).await;
    kill_and_start_again(&field, "the worker's node killed", node).await;
    let node = field.nodes().leader_of(&field.name("sessions"), 0).await;
    kill_and_start_again(&field, "a queue's leader killed", node).await;
    lose_the_majority(&mut field).await;
    for node in 0..3 {
        field.allow_more(SHARE);
        field.history.disturbed("node restarted");
        field.nodes().stop(node).await;
        until_served_again(&field, "node restarted").await;
        field.nodes().start_again(node).await;
    }
    field.finish().await.assert();
}

async fn lose_the_majority(field: &mut Field) {
    field.allow_more(SHARE);
    field.history.disturbed("majority killed");
    for node in [1, 2] {
        field.nodes().kill(node).await;
    }
    // A worker that starts now finds no queue that answers, and waits like one that knew better times.
    field.history.disturbed("worker killed");
    field.workers[0].take().unwrap().kill();
    field.launch_worker(0);
    field.workers[0].as_ref().unwrap().until_it_says("could not connect to broker", 2).await;
    for node in [1, 2] {
        field.nodes().start_again(node).await;
    }
    until_served_again(field, "majority killed").await;
}

/// Until the others give it up they look for the queues it led where they no longer are, and no client can change that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_cluster_whose_node_is_cut_off_goes_on() {
    let field = field(500).await;
    field.nodes().give_a_silent_one_up_after(8).await;
    let node = field.nodes().leader_of(&field.name("hosts"), 0).await;
    field.allow_more(SHARE);
    field.history.disturbed("node cut off");
    field.nodes().pause(node).await;
    until_served_again(&field, "node cut off").await;
    field.nodes().resume(node).await;
    field.finish().await.assert();
}

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

/// The number of the node that leads a queue. The queue must have a copy on each node.
async fn leader_of(testbed: &Testbed, name: &str) -> usize {
    let queue = testbed.name(name);
    let output = testbed.nodes[0]
        .eval(&format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
             {{_, Leader}} = amqqueue:get_pid(Q), \
             {{length(maps:get(nodes, amqqueue:get_type_state(Q))), Leader}}."
        ))
        .await;
    assert!(output.starts_with(&format!("{{{},", testbed.nodes.len())), "{queue}: {output}");
    number_in(testbed, &output)
}

/// The number of the node to which the worker's connection for `purpose` leads.
async fn connected_node(testbed: &Testbed, purpose: &str) -> usize {
    let output = testbed.nodes[0]
        .eval(&format!(
            "[node(C) || C <- rabbit_networking:connections(), \
             [{{_, Ps}}] <- [rabbit_networking:connection_info(C, [client_properties])], \
             {{<<\"connection_name\">>, _, Name}} <- Ps, \
             binary:match(Name, <<\"{purpose}\">>) =/= nomatch]."
        ))
        .await;
    number_in(testbed, &output)
}

/// The number of the only node in `output`, which is named `rabbit@127.0.0.{number + 1}`.
fn number_in(testbed: &Testbed, output: &str) -> usize {
    let (_, name) = output.split_once("rabbit@127.0.0.").unwrap();
    let number: usize = name.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    assert!((1..=testbed.nodes.len()).contains(&number), "{output}");
    number - 1
}

async fn kill_and_start_again(testbed: &Testbed, what: &'static str, node: usize) {
    testbed.allow_more(SHARE);
    testbed.history.disturbed(what);
    testbed.nodes[node].kill().await;
    until_processing_again(testbed, what).await;
    testbed.nodes[node].start_again().await;
}

/// Uses one cluster for all faults, because starting a cluster takes as long as two of the faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_cluster_loses_node_leader_and_majority_then_restarts() {
    let mut testbed = testbed(1500).await;
    let node = connected_node(&testbed, "consume link").await;
    kill_and_start_again(&testbed, "the worker's node killed", node).await;
    let node = leader_of(&testbed, "sessions").await;
    kill_and_start_again(&testbed, "a queue's leader killed", node).await;
    lose_the_majority(&mut testbed).await;
    for node in 0..3 {
        testbed.allow_more(SHARE);
        testbed.history.disturbed("node restarted");
        testbed.nodes[node].stop().await;
        until_processing_again(&testbed, "node restarted").await;
        testbed.nodes[node].start_again().await;
    }
    testbed.finish().await.assert();
}

async fn lose_the_majority(testbed: &mut Testbed) {
    testbed.allow_more(SHARE);
    testbed.history.disturbed("majority killed");
    for node in [1, 2] {
        testbed.nodes[node].kill().await;
    }
    // A worker that starts now gets no response from the queues, and waits like a worker that was connected before.
    testbed.history.disturbed("worker killed");
    testbed.workers[0].take().unwrap().kill();
    testbed.launch_worker(0);
    testbed.workers[0].as_ref().unwrap().output.until("could not connect to broker", 3).await;
    for node in [1, 2] {
        testbed.nodes[node].start_again().await;
    }
    until_processing_again(testbed, "majority killed").await;
}

/// Until the other nodes drop the paused node, they route to its queues' old leaders. No client can change that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_cluster_continues_while_one_node_is_cut_off() {
    let testbed = testbed(500).await;
    for node in &testbed.nodes {
        // The time after which nodes drop a node that does not respond. The default is a minute.
        node.eval("net_kernel:set_net_ticktime(8, 0).").await;
    }
    let node = leader_of(&testbed, "hosts").await;
    testbed.allow_more(SHARE);
    testbed.history.disturbed("node cut off");
    testbed.nodes[node].pause().await;
    until_processing_again(&testbed, "node cut off").await;
    testbed.nodes[node].resume().await;
    testbed.finish().await.assert();
}

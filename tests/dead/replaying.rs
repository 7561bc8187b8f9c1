//! Replay neither loses nor duplicates letters, even if it is killed at any step.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
};

use lapin::BasicProperties;
use serde_json::json;

use super::letters::{body, count, dead, host_link, ids, put, rig, tool};
use testkit::{
    Rig,
    amqp::{headers, with_id},
    event,
    events::event_with,
    poll,
    program::Program,
    random,
};

const REPLAY: [&str; 5] = ["dead", "replay", "--yes", "--queue", "sessions"];

async fn put_numbered(rig: &Rig, letters: usize) {
    let letters = (0..letters).map(|n| (dead(&format!("event-{n}"), "exhausted", 1), body(n))).collect();
    put(rig, "sessions", letters).await;
}

fn numbered(letters: usize) -> Vec<String> {
    let mut all: Vec<_> = (0..letters).map(|n| format!("event-{n}")).collect();
    all.sort();
    all
}

/// Asserts that each of `letters` is in the work queue once, and that the other queues are empty.
async fn assert_all_moved_once(rig: &Rig, letters: usize) {
    let work = rig.name("sessions");
    poll("all letters in the work queue", async || {
        (rig.amqp.depth(&work).await?.0 as usize >= letters).then_some(())
    })
    .await;
    let (all, moved) = (numbered(letters), ids(rig, "sessions").await);
    let duplicated: Vec<_> =
        moved.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    let lost: Vec<_> = all.iter().filter(|id| moved.binary_search(id).is_err()).collect();
    assert_eq!((lost, duplicated), (vec![], vec![]), "lost, duplicated");
    for queue in ["sessions.dead", "sessions.replay"] {
        assert_eq!(rig.amqp.depth(&rig.name(queue)).await, Some((0, 0)), "{queue}");
    }
}

#[tokio::test]
async fn replayed_letter_has_no_failure_headers_and_counts_its_replays() {
    let rig = rig().await;
    put(&rig, "sessions", vec![(dead("event-1", "exhausted", 5), body(1))]).await;
    for times in 1..=2 {
        let report = tool(&rig, &["replay", "--yes", "--json"]).await.json();
        assert_eq!(report["queues"][0]["classes"], json!({"exhausted": 1}), "{report}");
        let mut work = rig.amqp.consume(&rig.name("sessions")).await;
        let message = work.next().await;
        let headers = message.headers();
        for gone in
            ["x-dead-class", "x-dead-reason", "x-dead-at", "x-attempts", "x-retry-reason", "x-delivery-count"]
        {
            assert!(!headers.contains_key(gone), "{gone}: {headers:?}");
        }
        assert_eq!(headers["x-replays"], lapin::types::AMQPValue::LongLongInt(times));
        assert_eq!((message.id(), message.header("x-mine")), ("event-1".to_owned(), "flowsecret".to_owned()));
        assert!(message.header("traceparent").starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        // The event dies again, with the headers that it arrived with.
        let mut again = dead("event-1", "exhausted", 0);
        let mut table = again.headers().clone().unwrap();
        for (name, value) in headers.into_iter().filter(|(name, _)| name != "x-first-failed-at") {
            table.insert(name.into(), value);
        }
        again = again.with_headers(table);
        put(&rig, "sessions", vec![(again, message.body)]).await;
    }
}

/// An operator may have moved messages there by other means, such as a shovel.
#[tokio::test]
async fn other_messages_in_the_replay_queue_are_moved_and_counted() {
    let rig = rig().await;
    let moved = (0..3).map(|n| (with_id(&format!("event-{n}")), body(n))).collect::<Vec<_>>();
    rig.amqp.publish_all("", &rig.name("sessions.replay"), moved).await;
    let report = tool(&rig, &["replay", "--yes", "--json", "--queue", "sessions"]).await.json();
    assert_eq!(report["queues"][0]["resumed"], 3, "{report}");
    assert_all_moved_once(&rig, 3).await;
}

/// The broker dead-letters such messages without any header of ours.
#[tokio::test]
async fn events_with_equal_bodies_and_different_header_ids_are_two_letters() {
    let rig = rig().await;
    let body = body(1);
    let letter = |id| {
        let table = headers(&[("cloudEvents:specversion", "1.0"), ("cloudEvents:id", id)]);
        let properties = BasicProperties::default().with_content_type("application/json".into());
        (properties.with_headers(table), body.clone())
    };
    put(&rig, "sessions", ["cloud-1", "cloud-2"].map(letter).into()).await;
    let report = tool(&rig, &["replay", "--yes", "--json"]).await.json();
    assert_eq!(count(&report, "sessions", "replayed"), 2, "{report}");
    assert_eq!(rig.amqp.read_all(&rig.name("sessions")).await.len(), 2);
}

#[tokio::test]
async fn replay_beside_a_worker_skips_letters_of_ended_sessions() {
    let rig = rig().await;
    let over = event_with(7, &json!({"expiresAt": "2020-01-01T10:00:00Z"})).to_string().into_bytes();
    // Its links would have expired after two hours.
    let long_dead = (dead("event-8", "exhausted", 121), event(8).to_string().into_bytes());
    let mut letters = vec![(dead("event-7", "exhausted", 5), over), long_dead];
    letters.push((dead("event-9", "invalid", 5), b"no JSON".to_vec()));
    letters.extend(
        (0..5).map(|n| (dead(&format!("event-{n}"), "exhausted", 5), event(n).to_string().into_bytes())),
    );
    put(&rig, "sessions", letters).await;
    put(&rig, "hosts", vec![(dead("link-11", "rejected", 5), host_link(11))]).await;
    let worker = rig.start(&[]).await;
    let report = tool(&rig, &["replay", "--yes", "--json"]).await.json();
    assert_eq!(
        (count(&report, "sessions", "replayed"), count(&report, "sessions", "expired")),
        (6, 2),
        "{report}"
    );
    assert_eq!(count(&report, "hosts", "replayed"), 1);
    let links = rig.guest_links().await.take(5).await;
    let events: BTreeSet<_> =
        links.iter().map(|link| link.json()["eventId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, (0..5).map(|n| format!("event-{n}")).collect());
    rig.until_experts_have(6).await;
    // The invalid event dies again and counts the replay.
    poll("the invalid event's second dead letter", async || {
        (rig.amqp.depth(&rig.name("sessions.dead")).await?.0 == 3).then_some(())
    })
    .await;
    worker.stop().await;
    let list = tool(&rig, &["list", "--json", "--queue", "sessions", "--class", "invalid"]).await.json();
    let row = &list["queues"][0]["rows"][0];
    assert_eq!((&row["event"], &row["replays"], &row["attempts"]), (&json!("event-9"), &json!(1), &json!(1)));
    assert_eq!(ids(&rig, "sessions.dead").await, ["event-7", "event-8", "event-9"]);
}

#[tokio::test]
async fn only_letters_that_match_the_filter_are_replayed() {
    let rig = rig().await;
    let class = |n: usize| if n.is_multiple_of(3) { "internal" } else { "exhausted" };
    // More than two windows of letters that do not match.
    let letters = (0..900).map(|n| (dead(&format!("event-{n}"), class(n), 1), body(n))).collect();
    put(&rig, "sessions", letters).await;
    let report =
        tool(&rig, &["replay", "--yes", "--json", "--queue", "sessions", "--class", "internal"]).await.json();
    assert_eq!((count(&report, "sessions", "replayed"), count(&report, "sessions", "others")), (300, 600));
    let meant: Vec<_> =
        numbered(900).into_iter().filter(|id| class(id[6..].parse().unwrap()) == "internal").collect();
    poll("the letters", async || (rig.amqp.depth(&rig.name("sessions")).await?.0 == 300).then_some(())).await;
    assert_eq!(ids(&rig, "sessions").await, meant);
    assert_eq!(rig.amqp.depth(&rig.name("sessions.dead")).await, Some((600, 0)));
}

#[tokio::test]
async fn replay_killed_at_any_step_and_rerun_moves_each_letter_once() {
    const LETTERS: usize = 150;
    for (point, pass) in [
        ("replay.matched", 1),
        ("replay.copied", 1),
        ("replay.copied", 2),
        ("replay.acknowledged", 1),
        ("replay.acknowledged", 60),
        ("replay.acknowledged", 100),
        ("replay.released", 1),
        ("replay.released", 60),
        ("replay.released", 150),
    ] {
        let rig = rig().await;
        put_numbered(&rig, LETTERS).await;
        let mut environment = rig.environment(&[]);
        environment.push(("FAULT_AT".to_owned(), format!("{point}:{pass}:KILL")));
        // The second run is killed too, while it resumes the first one's work.
        let mut again = rig.environment(&[]);
        again.push(("FAULT_AT".to_owned(), "replay.released:20:KILL".to_owned()));
        for environment in [&environment, &again] {
            let killed = Program::start(&REPLAY, environment).ended().await;
            assert!(killed.code().is_none() || killed.success(), "{point} {pass}: {killed}");
        }
        let report = tool(&rig, &["replay", "--yes", "--json", "--queue", "sessions"]).await;
        eprintln!("{point} {pass}: {}", report.json()["queues"][0]);
        assert_all_moved_once(&rig, LETTERS).await;
    }
}

#[tokio::test]
async fn replay_killed_beside_a_worker_repeats_no_link_or_message() {
    const EVENTS: usize = 300;
    let rig = rig().await;
    put_numbered(&rig, EVENTS).await;
    let worker = rig.start(&[]).await;
    for point in ["copied:1", "acknowledged:37", "released:42"] {
        let mut environment = rig.environment(&[]);
        environment.push(("FAULT_AT".to_owned(), format!("replay.{point}:KILL")));
        assert_eq!(Program::start(&REPLAY, &environment).ended().await.code(), None, "{point}");
    }
    tool(&rig, &["replay", "--yes", "--queue", "sessions"]).await;
    rig.until_experts_have(EVENTS as u64).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    let mut copies = BTreeMap::<String, usize>::new();
    for link in rig.amqp.read_all(&rig.name("guests")).await {
        *copies.entry(link.json()["eventId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(copies.len(), EVENTS);
    assert!(copies.values().all(|count| *count == 1), "{copies:?}");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}

/// `DEAD_LETTERS` sets the number; `make dead-replay` uses 100,000.
#[tokio::test]
async fn replay_killed_half_way_moves_each_letter_once_in_bounded_memory() {
    let letters: usize = env::var("DEAD_LETTERS").map_or(3000, |text| text.parse().unwrap());
    let rig = rig().await;
    put_numbered(&rig, letters).await;
    let begun = std::time::Instant::now();
    tool(&rig, &["list", "--json"]).await;
    eprintln!("list: {:?}", begun.elapsed());
    let mut random = random();
    let mut peak = 0;
    for half in [letters / 4, letters / 2] {
        let replay = Program::start(&REPLAY, &rig.environment(&[]));
        let until = half + random.usize(..letters / 20);
        // Reading the queue takes time, and the replay continues meanwhile.
        poll("the replay to be half-way", async || {
            peak = peak.max(replay.resident_kib_max().unwrap_or(0));
            (rig.amqp.depth(&rig.name("sessions")).await?.0 as usize >= until).then_some(())
        })
        .await;
        replay.kill();
        let (moved, _) = rig.amqp.depth(&rig.name("sessions")).await.unwrap();
        eprintln!("killed after {moved} of {letters}");
    }
    let begun = std::time::Instant::now();
    let replay = Program::start(&REPLAY, &rig.environment(&[]));
    let mut replay = replay;
    poll("the replay's end", async || {
        peak = peak.max(replay.resident_kib_max().unwrap_or(0));
        (!replay.is_running()).then_some(())
    })
    .await;
    eprintln!("the rest: {:?}; peak memory {peak} KiB", begun.elapsed());
    assert!(replay.ended().await.success());
    assert_all_moved_once(&rig, letters).await;
    assert!(peak < 64 * 1024, "{peak} KiB");
}

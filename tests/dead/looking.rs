//! `list`, `show` and dry runs change nothing and show no personal data; `drop` is logged.

use lapin::BasicProperties;
use serde_json::{Value, json};

use super::letters::{body, contents, count, dead, host_link, ids, put, rig, tool};
use testkit::{
    Rig,
    amqp::with_id,
    events::{email, number},
    leaks::leaks,
    poll,
    python::python,
};

/// Letters of several classes, ages and queues.
async fn mixture(rig: &Rig) {
    let sessions = vec![
        (dead("event-1", "exhausted", 5), body(1)),
        (dead("event-2", "exhausted", 90), body(2)),
        (dead("event-3", "internal", 60 * 30), body(3)),
        (dead("event-4", "invalid", 60 * 24 * 9), b"flowsecret, but no JSON".to_vec()),
        (dead("34600000005", "rejected", 5), body(5)),
        (dead("event-2", "unroutable", 1), body(2)),
        // A message without headers, as a foreign client may leave it.
        (BasicProperties::default(), vec![0xff; 300]),
    ];
    put(rig, "sessions", sessions).await;
    put(rig, "hosts", vec![(dead("link-1", "rejected", 5), host_link(1))]).await;
    put(
        rig,
        "guests",
        vec![(
            with_id("link-2"),
            json!({"eventId": "event-6", "channel": "sms", "to": number(6)}).to_string().into_bytes(),
        )],
    )
    .await;
}

const QUEUES: [&str; 3] = ["sessions.dead", "guests.dead", "hosts.dead"];

async fn all_contents(rig: &Rig) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for queue in QUEUES {
        all.push(contents(rig, queue).await);
    }
    all
}

#[tokio::test]
async fn list_show_and_dry_runs_change_nothing_and_show_no_people() {
    let rig = rig().await;
    mixture(&rig).await;
    let before = all_contents(&rig).await;
    assert_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [7, 1, 1]);
    // RabbitMQ's own limit would be 20 deliveries.
    for _ in 0..8 {
        for arguments in [
            &["list"][..],
            &["list", "--json", "--limit", "3"],
            &["show", "event-2"],
            &["show", "--json", "34600000005"],
            &["replay"],
            &["replay", "--json", "--class", "exhausted"],
            &["drop", "--reason", "a test"],
        ] {
            let said = tool(&rig, arguments).await;
            assert_eq!(leaks(&said.stdout, &rig.sandbox), Vec::<String>::new(), "{arguments:?}");
        }
    }
    assert_eq!(all_contents(&rig).await, before);
    for queue in ["sessions", "hosts", "guests", "sessions.replay", "hosts.replay", "guests.replay"] {
        assert_eq!(rig.amqp.depth(&rig.name(queue)).await, Some((0, 0)), "{queue}");
    }
}

#[tokio::test]
async fn list_counts_by_class_and_age_and_shows_the_newest() {
    let rig = rig().await;
    mixture(&rig).await;
    let list = tool(&rig, &["list", "--json", "--limit", "3"]).await.json();
    let sessions = &list["queues"][0];
    assert_eq!((&list["ages"], &sessions["letters"]), (&json!(["1h", "1d", "7d", "older"]), &json!(7)));
    assert_eq!(
        sessions["classes"],
        json!({
            "exhausted": [1, 1, 0, 0], "internal": [0, 0, 1, 0], "invalid": [0, 0, 0, 1], "rejected": [1, 0, 0, 0],
            "unroutable": [1, 0, 0, 0], "none": [0, 0, 0, 1],
        })
    );
    let rows = sessions["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        (&rows[0]["class"], &rows[0]["event"], &rows[0]["attempts"]),
        (&json!("unroutable"), &json!("event-2"), &json!(8))
    );
    assert_eq!(rows[0]["people"], json!(["sms …02", "expert w…"]));
    assert_eq!(list["queues"][2]["rows"][0]["people"], json!(["expert w…"]));
    let text = tool(&rig, &["list", "--queue", "sessions"]).await.stdout;
    assert!(text.contains("sessions: 7 dead letters") && !text.contains("hosts"), "{text}");
    assert!(
        text.contains(
            "unroutable  session visit-2  attempts 8  [sms …02, expert w…]  Instant Connect responded with 503"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn reveal_shows_people_and_the_whole_message() {
    let rig = rig().await;
    mixture(&rig).await;
    let rows = tool(&rig, &["list", "--json", "--reveal", "--event", "34600000005"]).await.json();
    assert_eq!(rows["queues"][0]["rows"][0]["event"], "34600000005");
    let people = rows["queues"][0]["rows"][0]["people"].to_string();
    assert!(
        people.contains(&number(5)) && people.contains(&email(5)) && people.contains("Guadalupe 5"),
        "{people}"
    );
    let shown = tool(&rig, &["show", "event-2", "--reveal", "--json"]).await.json();
    let letters = shown.as_array().unwrap();
    assert_eq!(letters.len(), 2);
    for letter in letters {
        assert_eq!(letter["body"]["guests"][0]["address"], number(2));
        assert_eq!(letter["headers"]["x-mine"], "flowsecret");
    }
    let id = letters[0]["id"].as_str().unwrap();
    let one = tool(&rig, &["show", id, "--json"]).await.json();
    assert_eq!(one.as_array().unwrap().len(), 1, "a letter id must select one letter only");
    assert_eq!(one[0]["body"]["guests"][0]["address"], "… (12 characters)");
    let missing = rig.command(&["dead", "show", "event-77"], &[]).await;
    assert_eq!((missing.status, missing.stdout.as_str()), (Some(1), ""), "{missing:?}");
}

#[tokio::test]
async fn filters_select_the_right_letters_alone_and_combined() {
    let rig = rig().await;
    mixture(&rig).await;
    for (filter, sessions, hosts) in [
        (&[][..], 7, 1),
        (&["--class", "exhausted"], 2, 0),
        (&["--class", "exhausted", "--class", "rejected"], 3, 1),
        (&["--session", "visit-2"], 2, 0),
        (&["--event", "event-2"], 2, 0),
        (&["--event", "event-1"], 1, 1),
        (&["--event", "34600000005"], 1, 0),
        (&["--older-than", "1h"], 3, 0),
        (&["--newer-than", "1h"], 3, 1),
        (&["--older-than", "1h", "--newer-than", "2h"], 1, 0),
        (&["--class", "exhausted", "--newer-than", "1h"], 1, 0),
        (&["--class", "poison"], 0, 0),
    ] {
        let arguments = [&["drop", "--json", "--reason", "a test"], filter].concat();
        let dry = tool(&rig, &arguments).await.json();
        assert_eq!(dry["dryRun"], true);
        assert_eq!(
            (count(&dry, "sessions", "dropped"), count(&dry, "hosts", "dropped")),
            (sessions, hosts),
            "{filter:?}"
        );
    }
    let hosts = tool(&rig, &["drop", "--json", "--reason", "a test", "--queue", "hosts"]).await.json();
    assert_eq!(hosts["queues"], json!([{"queue": "hosts", "dropped": 1}]));
    for (wrong, said) in [
        (&["list", "--class", "wrong"][..], "expected one of invalid"),
        (&["list", "--queue", "wrong"], "expected one of sessions, guests, hosts"),
        (&["list", "--older-than", "soon"], "expected a duration"),
        (&["replay", "--rate", "0"], "expected letters per second"),
        (&["drop"], "--reason"),
        (&["drop", "--reason", "call 0700 1234567"], "expected a reason"),
    ] {
        let finished = rig.command(&[&["dead"], wrong].concat(), &[]).await;
        assert_eq!((finished.status, finished.stdout.as_str()), (Some(2), ""), "{finished:?}");
        assert!(finished.stderr.contains(said), "{finished:?}");
    }
}

#[tokio::test]
async fn dropped_letters_are_removed_and_logged_with_the_reason() {
    let rig = rig().await;
    mixture(&rig).await;
    let said =
        tool(&rig, &["drop", "--yes", "--json", "--reason", "answered by phone", "--class", "exhausted"])
            .await;
    assert_eq!(
        (said.json()["dryRun"].clone(), count(&said.json(), "sessions", "dropped")),
        (json!(false), 2)
    );
    let line: Value = serde_json::from_str(said.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["message"], &line["reason"]),
        (&json!("dropping dead letters"), &json!("answered by phone"))
    );
    let mut events: Vec<_> = line["events"].as_str().unwrap().split(' ').collect();
    events.sort_unstable();
    assert_eq!((events, &line["letters"]), (vec!["event-1", "event-2"], &json!(2)));
    let list = tool(&rig, &["list", "--json", "--queue", "sessions"]).await.json();
    assert_eq!(list["queues"][0]["letters"], 5);
    assert_eq!(list["queues"][0]["classes"]["exhausted"], Value::Null);
    assert_eq!(ids(&rig, "hosts.dead").await, ["link-1"]);
}

/// Letters that lapin can't parse: an id that is not UTF-8, and headers that a redelivery made larger than a frame.
#[tokio::test]
async fn unreadable_letters_are_named_by_position_and_block_no_others() {
    const LARGEST: &str = "131020";
    let rig = rig().await;
    let (work, queue) = (rig.name("sessions"), rig.name("sessions.dead"));
    python("deep.py", &[rig.url(), "", &queue, "event-1", "[]", "text", LARGEST]).await;
    until_ready(&rig, &queue, 1).await;
    python("reject.py", &[rig.url(), &queue, "requeue"]).await;
    put(&rig, "sessions", vec![(dead("event-2", "exhausted", 5), body(2))]).await;
    python("unreadable.py", &[rig.url(), "", &queue]).await;
    put(&rig, "sessions", vec![(dead("event-4", "exhausted", 5), body(4))]).await;
    until_ready(&rig, &queue, 4).await;

    let list = tool(&rig, &["list", "--json", "--queue", "sessions"]).await.json();
    assert_eq!(count(&list, "sessions", "letters"), 4, "{list}");
    let rows = list["queues"][0]["rows"].as_array().unwrap();
    let mut unreadable: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row["reason"].as_str()?.split_once(" has unreadable properties")?.0, row)))
        .collect();
    unreadable.sort_by_key(|(place, _)| *place);
    let places: Vec<_> = unreadable.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, ["letter 1 of the queue", "letter 3 of the queue"]);
    let events: Vec<_> = unreadable.iter().map(|(_, row)| row["event"].as_str().unwrap()).collect();
    let event = events[1];
    let shown = tool(&rig, &["show", "--json", event]).await.json();
    assert_eq!(shown[0]["body"], json!({}), "{shown}");

    let replay = tool(&rig, &["replay", "--yes", "--json", "--queue", "sessions"]).await.json();
    assert_eq!(replay["queues"][0]["classes"], json!({"exhausted": 2}), "{replay}");
    until_ready(&rig, &work, 2).await;
    until_ready(&rig, &queue, 2).await;
    for (event, left) in [(event, 1), (events[0], 0)] {
        let arguments = ["drop", "--yes", "--reason", "a test", "--queue", "sessions", "--event", event];
        tool(&rig, &arguments).await;
        until_ready(&rig, &queue, left).await;
    }
}

async fn until_ready(rig: &Rig, queue: &str, letters: u32) {
    let what = format!("{letters} messages in {queue}");
    poll(&what, async || (rig.amqp.depth(queue).await?.0 == letters).then_some(())).await;
}

#[tokio::test]
async fn second_dead_command_and_missing_queue_are_refused() {
    let rig = Rig::new().await;
    let missing = rig.command(&["dead", "list"], &[]).await;
    assert_eq!((missing.status, missing.stdout.as_str()), (Some(1), ""), "{missing:?}");
    assert!(missing.stderr.contains(&format!("queue {}", rig.name("sessions.dead"))), "{missing:?}");
    rig.command(&["topology", "--declare"], &[]).await;
    let letters = (0..50).map(|n| (dead(&format!("event-{n}"), "exhausted", 1), body(n))).collect();
    put(&rig, "sessions", letters).await;
    let slow = ["dead", "replay", "--yes", "--rate", "1/s", "--queue", "sessions"];
    let replay = testkit::program::Program::start(&slow, &rig.environment(&[]));
    poll("the replay's first letter", async || {
        (rig.amqp.depth(&rig.name("sessions")).await?.0 > 0).then_some(())
    })
    .await;
    let second = rig.command(&["dead", "list"], &[]).await;
    assert_eq!(second.status, Some(1));
    assert!(second.stderr.contains("queue is locked by another `dead` command"), "{second:?}");
    replay.kill();
}

/// RabbitMQ's own limit would be 20 deliveries. The command compares the queue's limit, whoever declared the queue.
#[tokio::test]
async fn letters_are_read_often_if_an_operator_declared_the_queues() {
    let rig = rig().await;
    put(&rig, "hosts", vec![(dead("link-1", "rejected", 5), host_link(1))]).await;
    for _ in 0..22 {
        let shown = rig
            .command(&["dead", "list", "--queue", "hosts", "--json"], &[("topology.declare", "check")])
            .await;
        assert_eq!(shown.status, Some(0), "{shown:?}");
    }
    assert_eq!(contents(&rig, "hosts.dead").await.len(), 1);
}

/// After a change of `guests.delivery`, or on an operator's machine that has the default.
#[tokio::test]
async fn dead_links_of_the_other_delivery_are_listed_and_replayed() {
    let rig = Rig::new().await;
    let sends = [
        ("guests.delivery", "webex-connect"),
        ("send.allowed_prefixes", "+346"),
        ("webex_connect.sms_from", "34900123123"),
    ];
    let declared = rig.command(&["topology", "--declare"], &sends).await;
    assert_eq!(declared.status, Some(0), "{declared:?}");
    let link = json!({"eventId": "event-6", "channel": "sms", "to": number(6)}).to_string().into_bytes();
    put(&rig, "guests.sms", vec![(with_id("link-2"), link)]).await;
    let listed = tool(&rig, &["list", "--queue", "guests.sms", "--json"]).await;
    assert!(listed.stdout.contains("guests.sms"), "{listed:?}");
    tool(&rig, &["replay", "--queue", "guests.sms", "--yes"]).await;
    assert_eq!(
        [contents(&rig, "guests.sms.dead").await.len(), contents(&rig, "guests.sms").await.len()],
        [0, 1]
    );
}

//! Every subcommand as a person or a program calls it.

use std::path::PathBuf;

use serde_json::{Value, json};

use testkit::{
    Rig, event,
    events::{email, number},
    program::{Finished, finished},
    rig::{NEW_TOKEN, TOKEN},
};

fn assert_usage(finished: &Finished, texts: &[&str]) {
    assert_eq!((finished.status, finished.stdout.as_str()), (Some(2), ""), "{finished:?}");
    for text in texts {
        assert!(finished.stderr.contains(text), "expected {text} in {}", finished.stderr);
    }
}

#[tokio::test]
async fn invalid_configuration_exits_2_and_names_key_value_and_expectation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    let path = file.to_str().unwrap();
    for (text, expected) in [
        ("[amqp]\nprefetch = 0\n", vec!["amqp.prefetch = 0", "expected a whole number from 1 to 65535"]),
        ("[retry]\ninitial = \"soon\"\n", vec!["retry.initial = \"soon\"", "expected a duration such as"]),
        ("[amqp]\nprefetsh = 1\n", vec!["amqp.prefetsh", "unknown key (did you mean amqp.prefetch?)"]),
        ("[hosts]\ndelivery = \"fax\"\n", vec!["hosts.delivery = \"fax\"", "expected webex or amqp"]),
        (
            "[devices]\nallowed = [\"*\"]\n",
            vec!["devices.allowed = [1 hidden]: entry 1: expected device addresses"],
        ),
        ("[amqp\n", vec!["line 1: invalid TOML"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let expected = [expected, vec!["error: file ", path]].concat();
        assert_usage(&finished(&["run", "--config", path], &Vec::new()).await, &expected);
    }
    let missing = folder.path().join("missing.toml");
    assert_usage(
        &finished(&["run", "--config", missing.to_str().unwrap()], &Vec::new()).await,
        &["missing.toml", "No such file"],
    );
}

#[tokio::test]
async fn invalid_environment_exits_2_and_names_the_variable() {
    for (name, value, expected) in [
        ("ICW_AMQP__PREFETCH", "many", vec!["amqp.prefetch = \"many\"", "expected a whole number"]),
        ("ICW_AMQP__PREFETSH", "1", vec!["unknown key (did you mean amqp.prefetch?)"]),
        ("ICW_AMQP_PREFETCH", "1", vec!["did you mean ICW_AMQP__PREFETCH (two underscores)?"]),
        (
            "ICW_AMQP__URL",
            "amqp://user:hidden-secret@mq.example.org",
            vec!["amqp.url = [hidden]", "expected amqps://"],
        ),
        (
            "ICW_AMQP__URL",
            "amqp://guest:hidden-secret@127.0.0.1/v;amqp://guest:hidden-secret@127.0.0.2/v",
            vec!["amqp.url = [hidden]", "separated by commas"],
        ),
        (
            "ICW_AMQP__URL",
            "amqp://127.0.0.1,amqps://guest:hidden-secret@127.0.0.1?cacertfile=/ca.pem",
            vec!["node 2 of 2", "cacertfile is not supported: set tls.ca_file"],
        ),
        ("ICW_INSTANT_CONNECT__URL", "http://example.org", vec!["expected https://"]),
    ] {
        let finished = finished(&["run"], &vec![(name.to_owned(), value.to_owned())]).await;
        assert_usage(&finished, &[expected, vec![name]].concat());
        assert!(!finished.stderr.contains("hidden-secret"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn missing_token_prevents_start_and_the_error_names_the_settings() {
    let finished = finished(&["run"], &Vec::new()).await;
    assert_usage(&finished, &["instant_connect.token", "ICW_INSTANT_CONNECT__TOKEN_FILE"]);
}

#[tokio::test]
async fn text_logs_have_no_colours_without_a_terminal() {
    let environment = vec![("ICW_TELEMETRY__LOG_FORMAT".to_owned(), "text".to_owned())];
    let finished = finished(&["run"], &environment).await;
    assert!(finished.stderr.contains("starting") && !finished.stderr.contains('\u{1b}'), "{finished:?}");
}

#[tokio::test]
async fn wrong_usage_exits_2_and_help_exits_0() {
    for arguments in [&["dance"][..], &["emit", "--guest"], &["schema", "nothing.v1"], &["run", "--set", "x"]]
    {
        assert_usage(&finished(arguments, &Vec::new()).await, &["error: "]);
    }
    let help = finished(&["--help"], &Vec::new()).await;
    assert_eq!(help.status, Some(0));
    for subcommand in ["run", "demo", "sandbox", "emit", "check", "topology", "schema", "dead"] {
        assert!(help.stdout.contains(&format!("\n  {subcommand} ")), "{}", help.stdout);
    }
}

#[tokio::test]
async fn schemas_in_config_match_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let written = finished(&["schema", "--write", folder.path().to_str().unwrap()], &Vec::new()).await;
    assert_eq!(written.status, Some(0), "{written:?}");
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/schemas");
    let names = |folder: &PathBuf| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|one| one.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&kept), names(&folder.path().to_owned()));
    let all = finished(&["schema"], &Vec::new()).await.json();
    for name in names(&kept) {
        let kept = std::fs::read_to_string(kept.join(&name)).unwrap();
        let made = std::fs::read_to_string(folder.path().join(&name)).unwrap();
        assert_eq!(kept, made, "{} differs from the output of `schema`: run `make schemas`", name.display());
        let name = name.to_str().unwrap().trim_end_matches(".json");
        assert_eq!(all[name], serde_json::from_str::<Value>(&made).unwrap());
        assert_eq!(finished(&["schema", name], &Vec::new()).await.stdout, made);
    }
}

#[tokio::test]
async fn topology_prints_the_same_queues_that_it_declares() {
    let rig = Rig::new().await;
    let plan = rig.command(&["topology", "--json"], &[]).await.json();
    let name = |name: &str| rig.name(name);
    assert_eq!(
        plan["exchanges"],
        json!([{"name": name("sessions"), "type": "topic"}, {"name": name("links"), "type": "topic"}])
    );
    let queues: Vec<_> =
        plan["queues"].as_array().unwrap().iter().map(|queue| queue["name"].clone()).collect();
    for queue in ["sessions", "guests", "hosts", "sessions.dead", "guests.dead", "hosts.dead"] {
        assert!(queues.contains(&json!(name(queue))), "{queue}");
        assert_eq!(rig.amqp.depth(&name(queue)).await, None, "printing declares nothing");
    }
    for (key, queue) in [("guest.sms", "guests"), ("guest.whatsapp", "guests"), ("host.webex", "hosts")] {
        let binding = json!({"exchange": name("links"), "routing_key": key, "queue": name(queue)});
        assert!(plan["bindings"].as_array().unwrap().contains(&binding), "{binding}");
    }
    let text = rig.command(&["topology", "--declare"], &[]).await;
    assert_eq!(text.status, Some(0), "{text:?}");
    for queue in queues {
        assert!(text.stdout.contains(queue.as_str().unwrap()));
        assert_eq!(rig.amqp.depth(queue.as_str().unwrap()).await, Some((0, 0)));
    }
}

#[tokio::test]
async fn emit_publishes_a_start_event_and_prints_its_id() {
    let rig = Rig::new().await;
    let guest = format!("whatsapp:{}:Guadalupe", number(1));
    let expert = email(1);
    let arguments = ["emit", "--json", "--session", "visit-1", "--guest", &guest, "--expert", &expert];
    let said = rig.command(&arguments, &[]).await.json();
    let event = rig.amqp.consume(&rig.name("sessions")).await.next().await;
    let expected =
        json!({"messageId": event.id(), "exchange": rig.name("sessions"), "routingKey": "session.start"});
    assert_eq!(said, expected);
    assert_eq!(
        event.json(),
        json!({"sessionId": "visit-1", "experts": [{"email": email(1)}],
            "guests": [{"channel": "whatsapp", "address": number(1), "name": "Guadalupe"}]})
    );
    assert_eq!(*event.properties.delivery_mode(), Some(2));
}

#[tokio::test]
async fn emit_refuses_an_invalid_event_without_unchecked() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("event.json");
    let mut wrong = event(1);
    wrong["guests"][0]["address"] = json!("600111222");
    std::fs::write(&file, wrong.to_string()).unwrap();
    let path = file.to_str().unwrap();
    let refused = rig.command(&["emit", "--file", path], &[]).await;
    assert_usage(&refused, &["`guests[0].address`: expected an E.164 number", "--unchecked"]);
    assert_eq!(rig.amqp.depth(&rig.name("sessions")).await, None, "nothing was published");
    let outcome = rig.command(&["emit", "--file", path, "--unchecked", "--message-id", "mine"], &[]).await;
    assert_eq!(outcome.status, Some(0), "{outcome:?}");
    let published = rig.amqp.consume(&rig.name("sessions")).await.next().await;
    assert_eq!((published.id().as_str(), published.json()), ("mine", wrong));
}

#[tokio::test]
async fn check_shows_settings_with_origin_and_tests_connections() {
    let rig = Rig::new().await;
    let report = rig.command(&["check", "--connect", "--json"], &[]).await;
    assert_eq!(report.status, Some(0), "{report:?}");
    let report = report.json();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["result"] != "fail"), "{findings:?}");
    for what in
        ["token of Instant Connect at Webex", "token of Webex Messages at Webex", "clock", "broker, version"]
    {
        let found = findings.iter().find(|finding| finding["what"] == what);
        assert!(found.is_some_and(|found| found["result"] == "pass"), "{what}: {findings:?}");
    }
    let missing =
        findings.iter().find(|finding| finding["what"] == format!("queue {}", rig.name("sessions")));
    let missing = missing.unwrap();
    assert_eq!(missing["result"], "warn");
    assert!(missing["advice"].as_str().unwrap().contains("topology --declare"), "{missing}");
    let setting = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    let token = json!({"key": "instant_connect.token", "value": "[hidden]", "origin": "environment ICW_INSTANT_CONNECT__TOKEN"});
    assert_eq!(setting("instant_connect.token"), token);
    assert_eq!(setting("amqp.url")["value"], "[hidden]");
    assert_eq!(setting("amqp.prefetch"), json!({"key": "amqp.prefetch", "value": "32", "origin": "default"}));
    assert_eq!(rig.amqp.depth(&rig.name("sessions")).await, None, "check declares nothing");
}

#[tokio::test]
async fn sandbox_configuration_matches_the_sandbox_defaults() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/sandbox.toml");
    let report = finished(&["check", "--json", "--config", file], &Vec::new()).await;
    assert_eq!(report.status, Some(0), "{report:?}");
    let report = report.json();
    let setting = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap()["value"].as_str().unwrap().to_owned()
    };
    let help = finished(&["sandbox", "--help"], &Vec::new()).await.stdout;
    // Long descriptions are wrapped, some in the middle of a default.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(help.contains("[default: sandbox-token]") && text.contains("\ntoken = \"sandbox-token\"\n"));
    assert!(help.contains("[default: 127.0.0.1:8080]"), "{help}");
    for key in ["instant_connect.url", "hosts.webex_url"] {
        assert_eq!(setting(key), "\"http://127.0.0.1:8080\"");
    }
    assert_eq!(setting("instant_connect.allowed_base_urls"), "[\"http://127.0.0.1:8080/visit/\"]");
}

#[tokio::test]
async fn check_fails_if_a_token_is_refused_or_queues_are_missing() {
    let rig = Rig::new().await;
    let settings = [("instant_connect.token", NEW_TOKEN), ("topology.declare", "check")];
    let report = rig.command(&["check", "--connect"], &settings).await;
    assert_eq!(report.status, Some(1), "{report:?}");
    for text in [
        "\n  fail: 2 exchanges\n        each: missing\n",
        " queues\n        each: missing\n",
        "\n  fail: token of Webex Messages at Webex\n        Webex responded with 401",
    ] {
        assert!(report.stdout.contains(text), "{report:?}");
    }
    for secret in [TOKEN, NEW_TOKEN, "guest:guest"] {
        assert!(!report.stdout.contains(secret), "{report:?}");
    }
}

#[tokio::test]
async fn demo_shows_each_persons_message_and_deletes_its_queues() {
    let rig = Rig::new().await;
    let url = vec![("ICW_AMQP__URL".to_owned(), rig.url().to_owned())];
    let demo = finished(&["demo"], &url).await;
    assert_eq!((demo.status, demo.stderr.as_str()), (Some(0), ""), "{demo:?}");
    let line = |begin: &str| {
        demo.stdout
            .lines()
            .find(|line| line.starts_with(begin))
            .unwrap_or_else(|| panic!("{begin}: {demo:?}"))
    };
    assert!(line("flow ").contains("/v1/sessions: 202, event "));
    assert!(
        line("SMS ")
            .contains("+14155550123: \"Hello Ben, please join your video session here: http://127.0.0.1:")
    );
    assert!(
        line("WhatsApp ").contains("+34600111222: \"Hola Ana,")
            && line("WhatsApp ").contains("[Unirse] http://127.0.0.1:")
    );
    assert!(
        demo.stdout.contains("Receipt   SMS: delivered\n")
            && demo.stdout.contains("Receipt   WhatsApp: read\n")
    );
    assert!(
        line("Webex ").contains("expert@example.com")
            && line("Webex ").contains("[Join session] http://127.0.0.1:")
    );
    assert!(line("Device ").contains("room-12@example.rooms.webex.com added to meeting visit-"));
    let prefix = line("broker ").split_whitespace().nth(4).unwrap().trim_end_matches(".*").to_owned();
    assert!(prefix.starts_with("icw-demo-"), "{prefix}");
    for queue in
        ["sessions", "guests.sms", "guests.whatsapp", "hosts", "receipts", "sessions.dead", "guests.sms.dead"]
    {
        assert_eq!(rig.amqp.depth(&format!("{prefix}.{queue}")).await, None, "{queue} is deleted");
    }
}

#[tokio::test]
async fn demo_without_a_broker_explains_how_to_start_one() {
    let url = vec![("ICW_AMQP__URL".to_owned(), "amqp://127.0.0.1:1/%2f".to_owned())];
    let demo = finished(&["demo"], &url).await;
    assert_eq!(demo.status, Some(1));
    assert!(demo.stderr.contains("`make demo`, which starts one, or set ICW_AMQP__URL"), "{demo:?}");
}

#[tokio::test]
async fn unreachable_broker_is_reported_and_all_nodes_are_tried() {
    let guest = format!("sms:{}", number(1));
    let emit = ["emit", "--guest", &guest, "--expert", &email(1)];
    let nowhere = vec![("ICW_AMQP__URL".to_owned(), "amqp://127.0.0.1:1/%2f".to_owned())];
    let outcome = finished(&emit, &nowhere).await;
    assert_eq!((outcome.status, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
    // One line: the command did not retry.
    let reason = "error: the event was not published: broker: connect: ";
    assert!(outcome.stderr.starts_with(reason) && outcome.stderr.lines().count() == 1, "{outcome:?}");
    let rig = Rig::new().await;
    let cluster = format!("amqp://127.0.0.1:1/%2f,{}", rig.url());
    for arguments in [&emit[..], &["topology", "--declare"], &["check", "--connect"]] {
        let outcome = rig.command(arguments, &[("amqp.url", &cluster)]).await;
        assert_eq!((outcome.status, outcome.stderr.as_str()), (Some(0), ""), "{arguments:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn sigterm_stops_an_idle_worker_with_status_0() {
    let rig = Rig::new().await;
    let worker = rig.start(&[]).await;
    let output = std::sync::Arc::clone(&worker.output);
    worker.stop().await;
    assert_eq!(output.records().last().unwrap()["message"], "worker stopped");
    assert_eq!(rig.amqp.depth(&rig.name("sessions")).await, Some((0, 0)));
}

#[tokio::test]
async fn sigterm_under_load_leaves_the_rest_to_the_next_worker() {
    const EVENTS: usize = 200;
    let rig = Rig::new().await;
    rig.sandbox.fault("joseencrypt:delay=50ms".parse().unwrap());
    let mut worker = rig.start(&[]).await;
    rig.publish_many(0..EVENTS).await;
    for calls in [40, 110] {
        rig.sandbox.until(|sandbox| sandbox.counts().calls >= calls).await;
        worker.stop().await;
        let (left, _) = rig.amqp.depth(&rig.name("sessions")).await.unwrap();
        assert!(left > 0, "the worker stopped with events left");
        worker = rig.start(&[]).await;
    }
    let links = super::broker_restarts::all_guest_links(&rig.amqp, &rig, EVENTS).await;
    super::broker_restarts::until_every_expert_has_message(&rig, EVENTS).await;
    worker.stop().await;
    rig.assert_queues_are_empty(&rig.amqp).await;
    assert!(links.values().all(|copies| copies.len() == 1), "a shutdown causes no repeats");
    let counts = rig.sandbox.counts();
    assert_eq!((counts.calls, counts.messages), (EVENTS as u64, EVENTS as u64));
}

#[tokio::test]
async fn sandbox_refuses_open_addresses_and_unknown_faults() {
    for command in ["sandbox", "demo"] {
        let outcome = finished(&[command, "--listen", "0.0.0.0:0"], &Vec::new()).await;
        assert_usage(&outcome, &["127.0.0.1", "`sandbox --allow-any-address`"]);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let outcome = finished(&[command, "--listen", &address], &Vec::new()).await;
        assert!(
            outcome.status == Some(1) && outcome.stderr.contains("Address already in use"),
            "{outcome:?}"
        );
    }
    assert_usage(&finished(&["sandbox", "--fault", "joseencrypt:dance"], &Vec::new()).await, &["--fault"]);
}

//! A change of `guests.delivery`: each link goes to one sender only.

use super::{SendRig, settings};

#[tokio::test]
async fn worker_does_not_start_while_other_programs_may_send_the_same_links() {
    let send = SendRig::new().await;
    let worker = send.rig.start(&[]).await;
    send.rig.publish(1).await;
    assert_eq!(send.rig.guest_links().await.take(1).await.len(), 1);
    worker.stop().await;
    let url = send.connect.url();
    for declare in ["off", "check", "create"] {
        let refused = send.rig.launch(&settings(url.as_str(), &[("topology.declare", declare)]));
        refused.output.until("exists, but guests.delivery is webex-connect", 1).await;
        assert!(!refused.ended().await.success());
    }
    let settings = settings(url.as_str(), &[]);
    let check = send.rig.command(&["check", "--connect"], &settings).await;
    assert!(check.stdout.contains("exists, but guests.delivery is webex-connect"), "{}", check.stdout);
    send.rig.amqp.delete_queues([send.rig.name("guests").as_str()]).await;
    let worker = send.start(&[]).await;
    send.rig.publish(2).await;
    send.until_sent(1).await;
    worker.stop().await;
    let worker = send.rig.start(&[]).await;
    worker.output.until("nobody sends the links in it", 2).await;
    worker.stop().await;
    let check = send.rig.command(&["check", "--connect"], &[]).await;
    assert!(check.stdout.contains("unbind it, move its links"), "{}", check.stdout);
    for queue in ["guests.sms", "guests.whatsapp"] {
        assert!(check.stdout.contains(&format!("queue {}", send.rig.name(queue))), "{}", check.stdout);
    }
    assert_eq!(send.connect.counts().sends, 1);
}

#[tokio::test]
async fn check_tries_the_key_and_sends_nothing() {
    let send = SendRig::new().await;
    let url = send.connect.url();
    for (key, passes) in [(testkit::rig::CONNECT_KEY, true), ("another-key", false)] {
        let settings = settings(url.as_str(), &[("webex_connect.key", key)]);
        let check = send.rig.command(&["check", "--connect", "--json"], &settings).await.json();
        let findings = check["findings"].as_array().unwrap();
        for api in ["SMS", "WhatsApp"] {
            let what = format!("key at Webex Connect ({api})");
            let finding = findings.iter().find(|finding| finding["what"] == what).unwrap();
            assert_eq!(finding["result"] == "pass", passes, "{finding}");
        }
    }
    assert_eq!(send.connect.counts().sends, 0);
}

//! What libraries say of their failures holds nothing private either. The rig searches it when it is dropped.

use crate::support::{Rig, rig::PASSWORD};

#[tokio::test]
async fn a_failure_below_a_url_with_a_password_shows_neither() {
    let rig = Rig::new().await;
    let plain = rig.url().rsplit('@').next().unwrap().to_owned();
    let tls = format!("amqps://rig:{PASSWORD}@{plain}");
    let nobody = format!("amqp://rig:{PASSWORD}@127.0.0.1:1/%2f");
    let wrong = format!("amqp://rig:{PASSWORD}@{plain}");
    for url in [&tls, &nobody, &wrong] {
        let found = rig.command(&["check", "--connect"], &[("amqp.url", url)]).await;
        assert_eq!(found.status, Some(1), "{found:?}");
        assert!(found.stdout.contains("fail: broker") && !found.stdout.contains(PASSWORD), "{found:?}");
    }
    let redis = format!("redis://rig:{PASSWORD}@127.0.0.1:1");
    let worker = rig.start(&[("ledger.kind", "redis"), ("ledger.url", &redis)]).await;
    rig.publish(1).await;
    worker.output.until("\"outcome\":\"wait\"", 1).await;
    worker.stop().await;
    // A plain server behind https.
    let sandbox =
        rig.environment(&[]).into_iter().find(|(name, _)| name == "ICW_HOSTS__WEBEX_URL").unwrap().1;
    let https = sandbox.replace("http://", "https://");
    let worker = rig.start(&[("instant_connect.url", &https)]).await;
    worker.output.until("\"outcome\":\"try-again\"", 1).await;
    worker.stop().await;
}

//! The services of compose.yaml that run this program, as processes with their own commands and environments.

use serde_json::Value;

use testkit::{
    free_port, poll,
    private_broker::PrivateBroker,
    program::{Environment, Program, finished},
    python::python,
};

/// The content of compose.yaml, with the hosts and ports of this test instead of the containers'.
struct Stack {
    compose: Value,
    broker: String,
    sandbox: String,
    webex_connect: String,
    admin: String,
}

impl Stack {
    async fn new(broker: &PrivateBroker) -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/compose.yaml");
        let said = python("chart_objects.py", &["json", file]).await;
        let compose: Value = serde_json::from_str(&said).unwrap();
        Self {
            compose: compose[0].clone(),
            broker: broker.address(),
            sandbox: free_port().to_string(),
            webex_connect: free_port().to_string(),
            admin: free_port().to_string(),
        }
    }

    fn here(&self, text: &str) -> String {
        let sandbox = text.replace("sandbox:8080", "127.0.0.1:8080").replace("8080", &self.sandbox);
        let webex_connect = format!("0.0.0.0:{}", self.webex_connect);
        sandbox.replace("0.0.0.0:8081", &webex_connect).replace("rabbitmq:5672", &self.broker)
    }

    /// The arguments of a service's program: the entrypoint's first, then the command's.
    fn arguments(&self, service: &str) -> Vec<String> {
        let service = &self.compose["services"][service];
        let words = |key: &str| service[key].as_array().cloned().unwrap_or_default();
        // The first word is the program. The image's entrypoint is only the program, and its command is `run`.
        let mut all = words("entrypoint").split_off(1.min(words("entrypoint").len()));
        all.extend(words("command"));
        if all.is_empty() {
            all.push("run".into());
        }
        all.iter().map(|word| self.here(word.as_str().unwrap())).collect()
    }

    fn environment(&self, service: &str) -> Environment {
        let given = self.compose["services"][service]["environment"].as_object().unwrap().iter();
        // The image sets this variable too, with another port.
        let mut all = vec![("ICW_ADMIN__LISTEN".to_owned(), format!("0.0.0.0:{}", self.admin))];
        all.extend(given.map(|(name, value)| (name.clone(), self.here(value.as_str().unwrap()))));
        all
    }

    fn start(&self, service: &str) -> Program {
        let arguments = self.arguments(service);
        Program::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &self.environment(service))
    }

    /// Waits until a service is healthy as compose defines it.
    async fn healthy(&self, service: &str, arguments: &[&str]) {
        let health = self.compose["services"][service]["healthcheck"]["test"].as_array().unwrap();
        assert_eq!(health[2..], *arguments, "{service}");
        let environment = self.environment(service);
        let what = format!("the health of {service}");
        poll(&what, async || (finished(arguments, &environment).await.status == Some(0)).then_some(())).await;
    }
}

/// Names with one label are local, so plain HTTP and AMQP need no permission. No key is unknown.
#[tokio::test]
async fn settings_of_compose_pass_check() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/compose.yaml");
    let compose: Value = serde_json::from_str(&python("chart_objects.py", &["json", file]).await).unwrap();
    for (name, service) in compose[0]["services"].as_object().unwrap() {
        if service["image"] != "instant-connect-worker:compose" {
            continue;
        }
        let settings = service["environment"].as_object().unwrap().iter();
        let environment: Environment =
            settings.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
        let checked = finished(&["check"], &environment).await;
        assert_eq!(checked.status, Some(0), "{name}: {checked:?}");
    }
}

#[tokio::test]
async fn emitted_event_of_compose_reaches_phone_and_inbox() {
    let broker = PrivateBroker::start().await;
    let stack = Stack::new(&broker).await;
    let sandbox = stack.start("sandbox");
    stack.healthy("sandbox", &["health", "--live"]).await;
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger").to_str().unwrap().to_owned();
    let mut environment = stack.environment("worker");
    // In a container, the working directory is the volume.
    environment.push(("ICW_LEDGER__PATH".to_owned(), ledger));
    let worker = Program::start(&["run"], &environment);
    assert_eq!(stack.arguments("worker"), ["run"]);
    stack.healthy("worker", &["health"]).await;

    let mut emit = stack.arguments("emit");
    assert_eq!(emit.pop().unwrap(), "--help", "the arguments of `run` replace it");
    let emit: Vec<_> = emit.iter().map(String::as_str).collect();
    let guest = ["--guest", "sms:+14155550123:Ben", "--expert", "expert@example.com"];
    let emitted = finished(&[&emit[..], &guest].concat(), &stack.environment("emit")).await;
    assert_eq!(emitted.status, Some(0), "{emitted:?}");

    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = format!("http://127.0.0.1:{}", stack.sandbox);
    let state = poll("the phone and the inbox", async || {
        let state: Value =
            client.get(format!("{page}/sandbox/state")).send().await.ok()?.json().await.ok()?;
        (state["texts"][0].is_object() && state["messages"][0].is_object()).then_some(state)
    })
    .await;
    // A browser on this machine opens the link.
    let link = state["texts"][0]["url"].as_str().unwrap();
    assert!(link.starts_with(&format!("{page}/visit/")), "{link}");
    assert_eq!(state["texts"][0]["to"], "+14155550123");
    assert_eq!(client.get(link).send().await.unwrap().status(), 200);

    let demo: Vec<_> = stack.arguments("demo");
    let demo = finished(&[demo[0].as_str()], &stack.environment("demo")).await;
    assert!(demo.status == Some(0) && demo.stdout.contains("done in"), "{demo:?}");
    worker.stop().await;
    sandbox.signal("TERM");
    assert_eq!(sandbox.ended().await.code(), Some(0));
}

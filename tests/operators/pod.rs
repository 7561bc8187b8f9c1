//! The chart's Deployment, `ConfigMap`, Secrets and volume, run by podman. Needs root on Debian; see the Makefile.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use testkit::{
    Rig, free_port,
    leaks::leaks,
    poll, program,
    rig::{NEW_TOKEN, TOKEN},
};

/// A user id as `OpenShift` assigns it.
const USER: &str = "1000660000";
const CONTAINER: &str = "icw-instant-connect-worker-pod-0-worker";

/// The objects of the first start, and those of a second start on the same volume.
const FIRST: &str = "first.yaml";
const AGAIN: &str = "again.yaml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program of the repository, which must succeed. Returns its output.
fn run(program: &str, arguments: &[&str], input: &Path) -> String {
    let mut command = Command::new(root().join(program));
    let input = fs::File::open(input).unwrap();
    let output = command.args(arguments).current_dir(root()).stdin(Stdio::from(input)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}:\n{said}{errors}");
    said + &errors
}

/// A release of the chart in a pod. Dropping it removes the pod and its volume.
struct Pod {
    folder: TempDir,
    admin: String,
}

impl Pod {
    fn new(rig: &Rig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let pod = Self { folder, admin: format!("http://127.0.0.1:{port}") };
        pod.secret("icw-amqp", "url", rig.url());
        pod.secret("icw-webex", "token", TOKEN);
        let image = concat!("localhost/instant-connect-worker:", env!("CARGO_PKG_VERSION"));
        let binary = program::production();
        let nothing = Path::new("/dev/null");
        run("scripts/image-local", &[&pod.path(""), binary.to_str().unwrap(), image], nothing);
        let environment = rig.environment(&[]);
        let (_, sandbox) = environment.iter().find(|(name, _)| name == "ICW_HOSTS__WEBEX_URL").unwrap();
        let settings = [
            "amqp.existingSecret=icw-amqp".to_owned(),
            "webex.existingSecret=icw-webex".to_owned(),
            format!("admin.port={port}"),
            format!("config.topology.prefix={}", rig.prefix),
            format!("config.instant_connect.url={sandbox}"),
            format!("config.hosts.webex_url={sandbox}"),
        ]
        .map(|setting| format!("--set={setting}"));
        let mut template = vec!["template", "icw", "charts/instant-connect-worker"];
        template.extend(settings.iter().map(String::as_str));
        let rendered = pod.path("rendered.yaml");
        fs::write(&rendered, run("scripts/helm", &template, nothing)).unwrap();
        let python = std::env::var("ICW_TEST_PYTHON").unwrap_or_else(|_| ".venv/bin/python".into());
        for (name, again) in [(FIRST, None), (AGAIN, Some("again"))] {
            let mut convert =
                vec!["tests/python/pod_objects.py".to_owned(), pod.path("secrets"), USER.to_owned()];
            convert.extend(again.map(str::to_owned));
            let convert: Vec<_> = convert.iter().map(String::as_str).collect();
            fs::write(pod.path(name), run(&python, &convert, Path::new(&rendered))).unwrap();
        }
        pod
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a key of a Secret atomically, as the kubelet does.
    fn secret(&self, name: &str, key: &str, value: &str) {
        let folder = PathBuf::from(self.path("secrets")).join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("new"), value).unwrap();
        fs::rename(folder.join("new"), folder.join(key)).unwrap();
    }

    fn podman(&self, arguments: &[&str]) -> String {
        let folder = self.path("");
        run("scripts/pod", &[&[folder.as_str()], arguments].concat(), Path::new("/dev/null"))
    }

    async fn start(&self, objects: &str) {
        self.podman(&["kube", "play", &self.path(objects)]);
        poll("readiness of the pod", async || (self.status().await? == 200).then_some(())).await;
    }

    /// The status of `/readyz`.
    async fn status(&self) -> Option<u16> {
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Some(client.get(format!("{}/readyz", self.admin)).send().await.ok()?.status().as_u16())
    }

    /// Sends SIGTERM with the chart's grace. The worker must exit with status 0. Returns its log.
    fn stop(&self) -> String {
        self.podman(&["stop", "--time", "35", CONTAINER]);
        assert_eq!(self.podman(&["inspect", "--format", "{{.State.ExitCode}}", CONTAINER]).trim(), "0");
        let said = self.podman(&["logs", CONTAINER]);
        // The volume is kept.
        self.podman(&["kube", "down", &self.path(AGAIN)]);
        said
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // A failing test reports its own error.
        _ = Command::new(root().join("scripts/pod")).args([&self.path(""), "end"]).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chart_pod_processes_rotates_token_and_keeps_ledger_over_restart() {
    let rig = Rig::new().await;
    let pod = Pod::new(&rig);
    pod.start(FIRST).await;
    let user = pod.podman(&["top", CONTAINER, "user", "group", "capeff"]);
    let user: Vec<_> = user.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(user, [USER, "0", "none"]);
    rig.publish(1).await;
    rig.until_experts_have(1).await;

    // The call is refused, and the event waits for the new token.
    rig.sandbox.set_token(NEW_TOKEN.into());
    rig.publish(2).await;
    poll("the refusal", async || (pod.status().await? == 503).then_some(())).await;
    pod.secret("icw-webex", "token", NEW_TOKEN);
    rig.until_experts_have(2).await;
    poll("the pod to become ready again", async || (pod.status().await? == 200).then_some(())).await;
    let program = "/usr/local/bin/instant-connect-worker";
    let checked = pod.podman(&["exec", CONTAINER, program, "check", "--connect"]);
    assert!(!checked.contains(NEW_TOKEN), "{checked}");
    let mut said = pod.stop();

    // The ledger on the volume knows the earlier events.
    pod.start(AGAIN).await;
    rig.publish(1).await;
    rig.publish(3).await;
    rig.until_experts_have(3).await;
    let done = "\"stage\":\"link\",\"outcome\":\"done\"";
    let both = async || (pod.podman(&["logs", CONTAINER]).matches(done).count() == 2).then_some(());
    poll("both events to be done", both).await;
    said += &pod.stop();
    assert_eq!(rig.sandbox.counts().messages, 3);
    assert_eq!(rig.amqp.depth(&rig.name("guests")).await.unwrap().0, 3, "event 1 is not published again");
    let leaks = leaks(&said, &rig.sandbox);
    assert!(leaks.is_empty(), "{} leaks, such as {}", leaks.len(), leaks[0]);
}

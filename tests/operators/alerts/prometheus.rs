//! A Prometheus for one test, from Debian's package: on a free port, in a temporary folder, stopped on drop.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use regex::{Captures, Regex};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use url::Url;

use super::super::{RULES, read};
use testkit::{admin::Admin, free_port, poll};

/// Factor by which all times are shorter than in the rules, so that minutes become seconds.
const SHORTER: u64 = 60;

const CONFIG: &str = "
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: file
    file_sd_configs: [{files: ['targets/*.json'], refresh_interval: 1s}]
";

/// Scrapes its targets every second, with all times of the rules shortened.
pub(super) struct Prometheus {
    folder: TempDir,
    port: u16,
    child: Child,
    client: reqwest::Client,
}

impl Prometheus {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("prometheus.yaml"), CONFIG).unwrap();
        fs::write(folder.path().join("rules.yaml"), shortened(&read(RULES))).unwrap();
        fs::create_dir(folder.path().join("targets")).unwrap();
        let port = free_port();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus runs; `make test` installs it, or `scripts/apt-install prometheus`");
        // Err means that a provider is installed already, which is fine.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut prometheus = Self { folder, port, child, client };
        let ready = prometheus.url("/-/ready", &[]);
        let what = "Prometheus to be ready";
        poll(what, async || {
            let ended = prometheus.child.try_wait().unwrap().is_some();
            assert!(!ended, "{}", fs::read_to_string(prometheus.folder.path().join("log")).unwrap());
            let answer = prometheus.client.get(ready.clone()).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        prometheus
    }

    /// Adds a worker as the only target of `job` and waits until Prometheus has scraped it.
    pub(super) async fn scrape(&self, job: &str, worker: &Admin) {
        let target = json!([{"targets": [worker.address()], "labels": {"job": job, "namespace": "tests"}}]);
        let (made, file) = (self.folder.path().join(job), format!("targets/{job}.json"));
        fs::write(&made, target.to_string()).unwrap();
        fs::rename(made, self.folder.path().join(file)).unwrap();
        // Rates need at least two samples.
        self.until(&format!("count_over_time(up{{job=\"{job}\"}}[1m]) >= 2")).await;
    }

    /// The present series of an expression.
    pub(super) async fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.get("/api/v1/query", &[("query", expression)]).await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// All rules as Prometheus loaded them.
    pub(super) async fn rules(&self) -> Vec<Value> {
        let answer = self.get("/api/v1/rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }

    /// Waits until `alert` fires for `job`.
    pub(super) async fn until_fires(&self, alert: &'static str, job: &str) -> &'static str {
        self.until(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",job=\"{job}\"}}")).await;
        alert
    }

    /// Waits until an expression has a series.
    pub(super) async fn until(&self, expression: &str) {
        poll(&format!("series of {expression}"), async || {
            sleep(Duration::from_millis(250)).await;
            (!self.query(expression).await.is_empty()).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let answer = self.client.get(self.url(path, query)).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        Url::parse_with_params(&format!("http://127.0.0.1:{}{path}", self.port), query).unwrap()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Shortens every `for:`, every range, and every number of seconds that a metric is compared with. The objective of
/// 10 seconds stays.
pub(in super::super) fn shortened(rules: &str) -> String {
    let times = Regex::new(r"(for: |\[)([0-9]+)([smhd])(\n|\])").unwrap();
    let short = times.replace_all(rules, |found: &Captures| {
        let seconds = match &found[3] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => 86_400,
        };
        let millis = found[2].parse::<u64>().unwrap() * seconds * 1_000 / SHORTER;
        format!("{}{millis}ms{}", &found[1], &found[4])
    });
    let compared = Regex::new(r"(_seconds(?:\{[^}]*\})?\)? [<>] )([0-9]+)").unwrap();
    let short = compared.replace_all(&short, |found: &Captures| {
        format!("{}{}", &found[1], found[2].parse::<u64>().unwrap() / SHORTER)
    });
    short.into_owned()
}

//! A client for the admin server: health checks and metrics.

use std::collections::BTreeMap;

use crate::{poll, program::Program};

/// A client of one program's admin server.
pub struct Admin {
    address: String,
    client: reqwest::Client,
}

/// The series of one scrape: `name{labels}` and value as text, without the prefix `instant_connect_`.
pub type Series = BTreeMap<String, String>;

impl Admin {
    /// A client for `program`, once the program logs its admin address.
    pub async fn of(program: &Program) -> Self {
        program.output.until("admin server listens", 1).await;
        let said = program.output.logged("admin server listens");
        // Err means that a provider is installed already, which is fine.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address: said[0]["address"].as_str().unwrap().to_owned(), client }
    }

    /// The address of the admin server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Gets a path. Returns status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// All metrics as text.
    pub async fn scrape(&self) -> String {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        text
    }

    /// The program's own metrics.
    pub async fn series(&self) -> Series {
        let text = self.scrape().await;
        let ours = text.lines().filter_map(|line| line.strip_prefix("instant_connect_"));
        let parsed = ours.map(|line| line.rsplit_once(' ').unwrap());
        parsed.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Waits until a series has this value.
    pub async fn until(&self, name: &str, value: &str) {
        let what = format!("{name} to be {value}");
        poll(&what, async || (self.series().await.get(name)? == value).then_some(())).await;
    }
}

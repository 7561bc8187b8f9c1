//! The programs that process the events.

use std::{env, path::PathBuf};

use serde::Serialize;
use testkit::program;

use super::{plain, settings::given};

/// A program that processes the events.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Contender {
    /// Its name in `BENCH_CONTENDERS` and in the JSON file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Takes part in the rounds with every delay, in the latencies and in the starts by default.
    #[serde(skip)]
    pub(crate) main: bool,
    /// Settings of the worker besides the required ones; `None` for the baseline.
    #[serde(skip)]
    settings: Option<&'static [(&'static str, &'static str)]>,
}

const NO_ADMIN: (&str, &str) = ("ICW_ADMIN__LISTEN", "off");

const ALL: [Contender; 6] = [
    Contender { name: "plain", title: "plain baseline", main: true, settings: None },
    Contender {
        name: "off",
        title: "worker, telemetry off",
        main: false,
        settings: Some(&[("ICW_TELEMETRY__LOG_LEVEL", "error"), NO_ADMIN]),
    },
    Contender { name: "defaults", title: "worker, defaults", main: true, settings: Some(&[]) },
    Contender {
        name: "memory",
        title: "worker, ledger in memory",
        main: true,
        settings: Some(&[("ICW_LEDGER__KIND", "memory")]),
    },
    Contender { name: "traces", title: "worker, defaults and traces", main: false, settings: Some(&[]) },
    Contender { name: "other", title: "other worker", main: true, settings: Some(&[]) },
];

impl Contender {
    /// The contenders with these names, separated by commas.
    pub(crate) fn named(names: &str) -> Vec<Self> {
        let find = |name: &str| {
            let found = ALL.iter().find(|contender| contender.name == name);
            found.unwrap_or_else(|| panic!("BENCH_CONTENDERS: unknown contender {name}")).clone()
        };
        names.split(',').map(find).collect()
    }

    /// The program and its argument.
    pub(crate) fn command(&self) -> (PathBuf, &'static str) {
        if self.settings.is_none() {
            return (env::current_exe().unwrap(), plain::FLAG);
        }
        let other = given("BENCH_OTHER").filter(|_| self.name == "other");
        (other.map_or_else(program::executable, PathBuf::from), "run")
    }

    /// Environment variables besides the required ones.
    pub(crate) fn environment(&self, collector: &str) -> Vec<(String, String)> {
        let settings = self.settings.unwrap_or_default().iter();
        let mut settings: Vec<_> =
            settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if self.name == "other" {
            let given = given("BENCH_OTHER_ENV").unwrap_or_default();
            let pairs = given.split(',').filter_map(|pair| pair.split_once('='));
            settings.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        if self.name == "traces" {
            settings.push(("ICW_TELEMETRY__OTLP_ENDPOINT".to_owned(), collector.to_owned()));
        }
        settings
    }

    /// True if it serves metrics.
    pub(crate) fn has_metrics(&self) -> bool {
        self.settings.is_some_and(|settings| !settings.contains(&NO_ADMIN))
    }
}

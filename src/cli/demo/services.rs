//! The tasks of the demo.

use std::{net::SocketAddr, sync::Arc};

use instant_connect_sandbox::{
    ConnectSandbox, ConnectSandboxOptions, ConnectSettings, Sandbox, SandboxOptions,
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{KEY, PATIENCE, TOKEN, people::People};
use crate::{
    broker::{connection::Connector, topology::Topology},
    cli::{CommandError, phones},
    config::Loaded,
    contract::receipt,
    worker::{self, WorkerRole},
};

/// Receipts that wait to be shown.
const RECEIPTS_MAX: usize = 100;

/// The simulated APIs.
pub(super) struct Sandboxes {
    pub(super) webex: Sandbox,
    pub(super) connect: ConnectSandbox,
}

impl Sandboxes {
    /// Listens on `listen` for Webex, and on a free port for Webex Connect.
    pub(super) async fn bind(listen: SocketAddr) -> Result<Self, CommandError> {
        let options = SandboxOptions {
            listen,
            allow_any_address: false,
            token: TOKEN.into(),
            password: "demo-password".into(),
            base_url: None,
        };
        let webex = Sandbox::bind(options).await?;
        let options = ConnectSandboxOptions {
            listen: SocketAddr::new(listen.ip(), 0),
            allow_any_address: false,
            phones: Some(webex.handle()),
            settings: ConnectSettings::with_key(KEY.into()),
        };
        let connect = ConnectSandbox::bind(options).await?;
        Ok(Self { webex, connect })
    }
}

/// The tasks of the demo.
pub(super) struct DemoServices {
    pub(super) people: People,
    pub(super) worker: JoinHandle<Result<(), worker::WorkerError>>,
    sandboxes: [JoinHandle<()>; 2],
    receipts: JoinHandle<()>,
    stop_worker: CancellationToken,
    stop_sandboxes: CancellationToken,
}

impl DemoServices {
    pub(super) fn start(
        sandboxes: Sandboxes,
        loaded: &Arc<Loaded>,
        connector: &Arc<Connector>,
        topology: &Topology,
    ) -> Self {
        let Sandboxes { webex, connect } = sandboxes;
        let (stop_worker, stop_sandboxes) = (CancellationToken::new(), CancellationToken::new());
        let (listens, ingress) = oneshot::channel();
        let (seen, receipts) = mpsc::channel(RECEIPTS_MAX);
        let people =
            People { webex: webex.handle(), connect: connect.handle(), ingress: Some(ingress), receipts };
        let (config, stop) = (Arc::clone(loaded), stop_worker.clone().cancelled_owned());
        let worker =
            tokio::spawn(async move { worker::run(&config, WorkerRole::All, Some(listens), stop).await });
        let (stop, stop_connect) = [(); 2].map(|()| stop_sandboxes.clone().cancelled_owned()).into();
        // An error ends the demo when the worker calls the sandbox in vain.
        let sandboxes = [
            tokio::spawn(async move { _ = webex.serve(stop).await }),
            tokio::spawn(async move { _ = connect.serve(stop_connect).await }),
        ];
        let (connector, queue) = (Arc::clone(connector), topology.exchange(receipt::EXCHANGE));
        let receipts = tokio::spawn(async move {
            let show =
                |body: &[u8]| _ = seen.try_send(serde_json::from_slice::<Value>(body).unwrap_or_default());
            // Stops with the demo. After a connection error the receipts are missing, which the demo reports.
            _ = phones::consume(&connector, "receipts", &queue, show).await;
        });
        Self { people, worker, sandboxes, receipts, stop_worker, stop_sandboxes }
    }

    pub(super) async fn stop(self) {
        self.stop_worker.cancel();
        if !self.worker.is_finished() {
            _ = timeout(PATIENCE, self.worker).await;
        }
        self.receipts.abort();
        self.stop_sandboxes.cancel();
        for sandbox in self.sandboxes {
            _ = timeout(PATIENCE, sandbox).await;
        }
    }
}

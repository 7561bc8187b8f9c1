//! `sandbox`: serves simulated Instant Connect, Webex Messages and Webex Connect APIs.

use std::{net::SocketAddr, time::Instant};

use instant_connect_sandbox::{
    ConnectSandbox, ConnectSandboxOptions, ConnectSettings, FaultRule, Handle, ReceiptWebhook, Sandbox,
    SandboxError, SandboxOptions, WhatsAppTemplate,
};
use secrecy::SecretString;
use tracing::info;
use url::Url;

use super::{CommandError, phones, say, signals};
use crate::{broker::reconnect::ReconnectBackoff, config::Loaded, contract::link::GUESTS, random::Random};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Listen address; port 0 selects a free port
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Allow listen addresses other than loopback; anyone who reaches the sandbox sees all links
    #[arg(long)]
    allow_any_address: bool,
    /// Accepted bearer token
    #[arg(long, default_value = "sandbox-token", value_name = "TOKEN")]
    token: SecretString,
    /// Password that decrypts the links' ciphertext
    #[arg(long, default_value = "sandbox-password", value_name = "PASSWORD")]
    password: SecretString,
    /// Base URL of short links (default: the sandbox's own address)
    #[arg(long, value_name = "URL")]
    base_url: Option<Url>,
    /// Fault to inject, such as joseencrypt:status=429,retry-after=7,times=3; repeatable
    #[arg(long, value_name = "FAULT")]
    fault: Vec<FaultRule>,
    #[command(flatten)]
    webex_connect: ConnectArgs,
    /// Also consume guest links from the broker and show the texts that guests would receive
    #[arg(long)]
    phones: bool,
}

/// Arguments of the simulated Webex Connect.
#[derive(Debug, clap::Args)]
struct ConnectArgs {
    /// Listen address of Webex Connect (SMS, WhatsApp, events); port 0 selects a free port
    #[arg(id = "webex-connect-listen", long, default_value = "127.0.0.1:8081", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Service key that Webex Connect accepts
    #[arg(id = "webex-connect-key", long, default_value = "sandbox-key", value_name = "KEY")]
    key: SecretString,
    /// WhatsApp template that Webex Connect knows, such as link-fr:name,button=join; repeatable (default: link-en and
    /// link-es, with the parameter name and the button join)
    #[arg(id = "webex-connect-template", long, value_name = "TEMPLATE")]
    templates: Vec<WhatsAppTemplate>,
    /// HTTP URL to which Webex Connect posts receipts
    #[arg(id = "webex-connect-webhook", long, value_name = "URL")]
    webhook: Option<Url>,
    /// Secret that signs the receipts
    #[arg(
        id = "webex-connect-webhook-secret",
        long,
        value_name = "SECRET",
        requires = "webex-connect-webhook"
    )]
    webhook_secret: Option<SecretString>,
}

impl ConnectArgs {
    fn options(self, allow_any_address: bool, phones: Handle) -> ConnectSandboxOptions {
        let mut settings = ConnectSettings::with_key(self.key);
        if !self.templates.is_empty() {
            settings.templates = self.templates;
        }
        settings.webhook = self
            .webhook
            .map(|url| ReceiptWebhook { secret: self.webhook_secret, ..ReceiptWebhook::new(url) });
        ConnectSandboxOptions { listen: self.listen, allow_any_address, phones: Some(phones), settings }
    }
}

impl From<SandboxError> for CommandError {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::NotLoopback(_) | SandboxError::BaseUrl => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

pub(super) async fn run(loaded: &Loaded, args: Args) -> Result<(), CommandError> {
    let options = SandboxOptions {
        listen: args.listen,
        allow_any_address: args.allow_any_address,
        token: args.token,
        password: args.password,
        base_url: args.base_url,
    };
    let sandbox = Sandbox::bind(options).await?;
    let handle = sandbox.handle();
    let connect =
        ConnectSandbox::bind(args.webex_connect.options(args.allow_any_address, handle.clone())).await?;
    for rule in args.fault {
        if rule.endpoint.is_connect() {
            connect.handle().fault(rule.clone());
        }
        if rule.endpoint.is_webex() {
            handle.fault(rule);
        }
    }
    say(&format!("sandbox {}", sandbox.url()))?;
    say(&format!("webex connect {}", connect.handle().url()))?;
    info!(address = %sandbox.addr(), webex_connect = %connect.addr(), "sandbox listens");
    let phones =
        async { if args.phones { show_phones(loaded, &handle).await } else { std::future::pending().await } };
    let served = async {
        tokio::try_join!(sandbox.serve(signals::shutdown()?), connect.serve(signals::shutdown()?))
            .map_err(CommandError::from)
    };
    tokio::select! {
        served = served => served.map(|((), ())| ()),
        () = phones => Ok(()),
    }
}

/// Shows the texts of the guest queue on the phones.
async fn show_phones(loaded: &Loaded, handle: &Handle) {
    let connector = loaded.config.connector();
    let queue = loaded.config.topology().queue(&GUESTS);
    let mut backoff = ReconnectBackoff::new(connector.limits.reconnect_max, Random::system());
    loop {
        let begun = Instant::now();
        if let Err(error) = phones::forward(&connector, &queue, handle).await
            && backoff.failed(begun.elapsed() >= connector.limits.reconnect_max, error.reason())
        {
            tracing::warn!(%error, "could not consume the guest queue; retrying (phones page is offline)");
        }
        tokio::time::sleep(backoff.wait()).await;
    }
}

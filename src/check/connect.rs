//! Checks of the service key at Webex Connect, with requests that cannot send a message.

use super::{CheckGroup::Guests, Finding};
use crate::{
    config::Loaded,
    contract::stage::StageDef,
    stages,
    telemetry::metrics::Metrics,
    upstream::{ErrorCause, Upstream, UpstreamError},
    webex_connect::{ConnectApi, ConnectClient, event, sms, whatsapp},
};

pub(super) async fn run(loaded: &Loaded) -> Vec<Finding> {
    if !loaded.config.sends_to_guests() {
        return Vec::new();
    }
    let section = &loaded.config.webex_connect;
    if loaded.config.wakes_flows() {
        let what = "credential at Webex Connect (custom events)".to_owned();
        return vec![tried(loaded, &stages::SMS, event::PATH, ConnectApi::Event, what).await];
    }
    let messages = async |stage: &StageDef, path: &str, sender: &str| {
        if sender.is_empty() {
            return None;
        }
        let what = format!("key at {}", stage.upstream.title);
        Some(tried(loaded, stage, path, ConnectApi::Messages, what).await)
    };
    let (sms, whatsapp) = tokio::join!(
        messages(&stages::SMS, sms::PATH, &section.sms_from),
        messages(&stages::WHATSAPP, whatsapp::PATH, &section.whatsapp_app_id),
    );
    [sms, whatsapp].into_iter().flatten().collect()
}

/// The finding `what` about one of the APIs.
async fn tried(loaded: &Loaded, stage: &StageDef, path: &str, api: ConnectApi, what: String) -> Finding {
    let tried = match client(loaded, stage, path, api) {
        Ok(client) => client.try_key().await,
        Err(problem) => return Guests.fail(what, problem),
    };
    match tried {
        Ok(()) => Guests.pass(what, "accepted"),
        Err(error) => Guests.fail(what, error.reason.clone()).advise(advice(&error)),
    }
}

fn client(loaded: &Loaded, stage: &StageDef, path: &str, api: ConnectApi) -> Result<ConnectClient, String> {
    let url = loaded.connect_url(path);
    let (token, credential) = loaded.connect_credential().map_err(|error| error.to_string())?;
    let upstream = Upstream::new(
        stage.upstream.title,
        &url,
        token,
        loaded.config.webex_connect.limits(),
        &loaded.network().map_err(|error| error.to_string())?,
        Metrics::off().upstream(stage.upstream),
    );
    let upstream = upstream.map_err(|error| error.to_string())?;
    Ok(ConnectClient::new(upstream.authenticated_by(credential), url, api))
}

fn advice(error: &UpstreamError) -> &'static str {
    match (error.cause, error.status) {
        (ErrorCause::Token, _) => "correct the key or the account; the worker reads the key's file again",
        (_, Some(_)) => "try again; check webex_connect.url",
        (_, None) => {
            "check webex_connect.url, the network, the proxy (HTTPS_PROXY, NO_PROXY), and tls.ca_file for a private CA"
        }
    }
}

//! The stages that send guest links through Webex Connect, with its fake on a real socket.

mod credentials;
mod event;
mod faults;
mod limits;
mod switching;
mod whole_way;

use instant_connect_sandbox::{ConnectHandle, Endpoint, Fault, FaultRule, Frequency, RefusalFault};
use testkit::{
    Rig,
    program::Program,
    rig::{BASE_URL, CONNECT_KEY},
};

/// A rig, and a fake of Webex Connect that accepts [`CONNECT_KEY`].
pub(crate) struct SendRig {
    pub(crate) rig: Rig,
    pub(crate) connect: ConnectHandle,
}

impl SendRig {
    pub(crate) async fn new() -> Self {
        Self::on(Rig::new().await).await
    }

    pub(crate) async fn on(rig: Rig) -> Self {
        let connect = rig.webex_connect().await;
        Self { rig, connect }
    }

    /// Starts a worker that sends on both channels.
    pub(crate) async fn start(&self, more: &[(&str, &str)]) -> Program {
        let url = self.connect.url();
        self.rig.start(&settings(url.as_str(), more)).await
    }

    pub(crate) async fn until_sent(&self, count: u64) {
        let sent = self.connect.until(|connect| connect.counts().sends >= count);
        testkit::soon(&format!("{count} messages"), sent).await;
    }

    /// Lets the next `times` calls of `endpoint` have `fault`.
    pub(crate) fn fault(&self, endpoint: Endpoint, fault: Fault, times: Frequency) {
        self.connect.fault(FaultRule { endpoint, fault, times });
    }
}

/// The settings of a worker that sends on both channels, with `more`.
pub(crate) fn settings<'a>(url: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let settings = [
        ("guests.delivery", "webex-connect"),
        ("webex_connect.url", url),
        ("webex_connect.key", CONNECT_KEY),
        ("webex_connect.sms_from", "34900123123"),
        ("webex_connect.whatsapp_app_id", "sandbox-app"),
        ("webex_connect.whatsapp_templates__en", "link-en"),
        ("webex_connect.whatsapp_templates__es", "link-es"),
        ("webex_connect.whatsapp_parameters", "name,join"),
        ("webex_connect.whatsapp_base_url", BASE_URL),
        ("send.allowed_prefixes", "+346"),
        ("retry.delays", "100ms,500ms"),
        ("retry.initial", "100ms"),
    ];
    settings.iter().chain(more).copied().collect()
}

/// A refusal with `code`.
pub(crate) fn refusal(code: u32) -> Fault {
    Fault::Refuse(RefusalFault { code, http: None, shape: None, numeric: false })
}

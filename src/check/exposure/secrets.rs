//! Settings that show secrets or hinder their rotation.

use secrecy::ExposeSecret;

use crate::{
    check::{
        CheckGroup::{Exposure, Guests, InstantConnect, Webex},
        Finding, on,
    },
    config::{
        Loaded,
        settings::{Origin, is_secret},
    },
};

pub(super) fn all(loaded: &Loaded) -> Vec<Finding> {
    [inline_tokens(loaded), secrets_in_flags(loaded), insecure(loaded)].concat()
}

/// Clients whose token or signing secret can't rotate without a restart.
pub(super) fn client_tokens(loaded: &Loaded) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, client) in &loaded.config.ingress.clients {
        let has_token = client.token_sha256.is_some() || !client.token.expose_secret().is_empty();
        if client.token_file.is_none() && has_token {
            let about = on(Exposure, loaded, &[&format!("ingress.clients.{name}.token_file")]);
            found.push(about.warn(
                "the client's token is read only at startup: it cannot rotate without a restart",
                "set token_file to a file with one or two tokens, or with their digests",
            ));
        }
        if client.signing_secret_file.is_none() && !client.signing_secret.expose_secret().is_empty() {
            let about = on(Exposure, loaded, &[&format!("ingress.clients.{name}.signing_secret_file")]);
            found.push(about.warn(
                "the client's signing secret is read only at startup: it cannot rotate without a restart",
                "set signing_secret_file to a file with one or two secrets",
            ));
        }
    }
    found
}

fn inline_tokens(loaded: &Loaded) -> Vec<Finding> {
    let (instant_connect, hosts) = (&loaded.config.instant_connect.token, &loaded.config.hosts.token);
    let inline = [
        (InstantConnect, "instant_connect.token", instant_connect),
        (Webex, "hosts.token", hosts),
        (Guests, "webex_connect.key", &loaded.config.webex_connect.key),
        (Guests, "webex_connect.jwt_secret", &loaded.config.webex_connect.jwt_secret),
        (Guests, "receipts.secret", &loaded.config.receipts.secret),
        (Guests, "receipts.key", &loaded.config.receipts.key),
    ];
    let given = inline.into_iter().filter(|(_, _, token)| !token.expose_secret().is_empty());
    given
        .map(|(group, key, _)| {
            on(group, loaded, &[key]).warn(
                "read only at startup: after a rotation the worker uses the old token until it is restarted",
                format!("set {key}_file to a file with it; the worker reads it again when it changes"),
            )
        })
        .collect()
}

fn secrets_in_flags(loaded: &Loaded) -> Vec<Finding> {
    let exposed =
        loaded.settings.rows().filter(|(key, _, origin)| is_secret(key) && **origin == Origin::Flag);
    exposed
        .map(|(key, ..)| {
            on(Exposure, loaded, &[key]).warn(
                "passed with --set: visible in the process list and shell history",
                "pass it in a file or an environment variable",
            )
        })
        .collect()
}

fn insecure(loaded: &Loaded) -> Vec<Finding> {
    let config = &loaded.config;
    let all = [
        ("amqp.allow_insecure", config.amqp.allow_insecure, "the broker's password"),
        ("instant_connect.allow_insecure", config.instant_connect.allow_insecure, "the token and the links"),
        ("hosts.allow_insecure", config.hosts.allow_insecure, "the token and the host links"),
        (
            "webex_connect.allow_insecure",
            config.webex_connect.allow_insecure,
            "the service key and the guests' links",
        ),
        ("ledger.allow_insecure", config.ledger.allow_insecure, "Redis's password and the links"),
        ("ingress.allow_insecure", config.ingress.allow_insecure, "the clients' tokens and the events"),
    ];
    if all.iter().all(|(_, allowed, _)| !allowed) {
        let keys = all.map(|(key, ..)| key);
        return vec![
            on(Exposure, loaded, &keys).pass("no secret leaves this machine or cluster without TLS"),
        ];
    }
    let allowed = all.into_iter().filter(|(_, allowed, _)| *allowed);
    allowed
        .map(|(key, _, what)| {
            on(Exposure, loaded, &[key]).warn(
                format!("{what} may be sent unencrypted if the URL allows it"),
                format!("use TLS and remove {key}"),
            )
        })
        .collect()
}

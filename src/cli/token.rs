//! `token`: makes a token or a signing secret for a client of the ingress.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{CommandError, say, say_json};
use crate::{
    ingress::{client_signatures::secret_of, client_tokens::digest_of},
    tls,
};

/// Random bytes of a token or a secret: 256 bits.
const RANDOM_BYTES: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Make a secret with which the client signs its requests (Standard Webhooks), instead of a token
    #[arg(long)]
    signing: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    let mut random = [0; RANDOM_BYTES];
    let filled = tls::provider().secure_random.fill(&mut random);
    filled.map_err(|_| CommandError::Failed("the system has no secure random numbers".to_owned()))?;
    if args.signing {
        let secret = secret_of(&random);
        return if args.json { say_json(&json!({"signing_secret": secret})) } else { say(&secret) };
    }
    // The prefix lets scanners of repositories and logs recognise a token.
    let token = format!("icw_{}", URL_SAFE_NO_PAD.encode(random));
    let digest = digest_of(&token).to_hex();
    if args.json {
        return say_json(&json!({"token": token, "sha256": digest}));
    }
    say(&format!("token   {token}"))?;
    say(&format!("sha256  {digest}"))
}

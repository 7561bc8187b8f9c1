//! `emit`: publishes a start event as a flow does.

use std::{io::Read, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

use super::{
    CommandError,
    emit_http::{self, ClientProof},
    say, say_json,
};
use crate::{
    broker::{
        connection::{Connector, close},
        properties,
        publisher::{Publication, PublishError, Publisher},
        topology::Topology,
    },
    config::Loaded,
    contract::{
        BODY_BYTES_MAX, decode,
        start_session::{EXCHANGE, ROUTING_KEY, StartSession, check},
        trace::TraceContext,
    },
    random::Random,
    state::PublishState,
    telemetry::metrics::Metrics,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File with the event's JSON; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["session", "guest", "expert", "device"])]
    file: Option<PathBuf>,
    /// Session id (default: a new one)
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Guest as channel:number or channel:number:name (channel: sms or whatsapp); repeatable
    #[arg(long, value_name = "GUEST")]
    guest: Vec<String>,
    /// Expert's e-mail address; repeatable
    #[arg(long, value_name = "EMAIL")]
    expert: Vec<String>,
    /// Room device as user@host; repeatable
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Message id (default: a new one)
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Send to an ingress at this URL instead of the broker; the message id is the idempotency key
    #[arg(long, value_name = "URL")]
    http: Option<Url>,
    /// File with the token for --http (default: the variable `ICW_CLIENT_TOKEN`)
    #[arg(long, value_name = "FILE", requires = "http")]
    token_file: Option<PathBuf>,
    /// File with the signing secret for --http: signs the request instead of sending a token
    #[arg(long, value_name = "FILE", requires = "http", conflicts_with = "token_file")]
    signing_secret_file: Option<PathBuf>,
    /// Publish even an invalid start event
    #[arg(long)]
    unchecked: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(loaded: &Loaded, args: &Args) -> Result<(), CommandError> {
    let session = args.session.clone().unwrap_or_else(|| format!("visit-{}", Uuid::new_v4().simple()));
    let body = match &args.file {
        Some(path) => read(path)?,
        None => build(args, &session)?.to_string().into_bytes(),
    };
    if !args.unchecked {
        decode::from_json(&body).and_then(|start: StartSession| check(&start, Timestamp::now())).map_err(
            |invalid| {
                CommandError::Usage(format!(
                    "the event is invalid: {invalid}; hint: --unchecked publishes it anyway"
                ))
            },
        )?;
    }
    if args.message_id.as_ref().is_some_and(|id| !(1..=255).contains(&id.len())) {
        return Err(CommandError::Usage("--message-id: expected 1 to 255 bytes".to_owned()));
    }
    let message_id = args.message_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    // The same event again, which has no second effect.
    let repeat = match (&args.file, &args.session) {
        (None, None) => format!("repeat with --message-id {message_id} --session {session}"),
        _ => format!("repeat with --message-id {message_id}"),
    };
    if let Some(url) = &args.http {
        let proof = match &args.signing_secret_file {
            Some(path) => ClientProof::secret(path)?,
            None => ClientProof::token(args.token_file.as_deref())?,
        };
        return emit_http::run(loaded, url, &proof, &message_id, &repeat, body, args.json).await;
    }
    let topology = loaded.config.topology();
    // Connects once first: the publisher below retries forever, which suits a worker but not a waiting person.
    let connector = Arc::new(loaded.config.connector());
    let connection = connector
        .connect_once("emit")
        .await
        .map_err(|error| CommandError::Failed(format!("the event was not published: broker: {error}")))?;
    close(&connection).await;
    publish(loaded, &connector, &topology, &message_id, &repeat, body).await?;
    if args.json {
        return say_json(
            &json!({"messageId": message_id, "exchange": topology.exchange(EXCHANGE), "routingKey": ROUTING_KEY}),
        );
    }
    say(&format!("published {message_id} to {} ({ROUTING_KEY})", topology.exchange(EXCHANGE)))
}

/// Publishes `body` as a start event, confirmed. `repeat` says how to publish it again if the result is unknown.
pub(super) async fn publish(
    loaded: &Loaded,
    connector: &Arc<Connector>,
    topology: &Topology,
    message_id: &str,
    repeat: &str,
    body: Vec<u8>,
) -> Result<(), CommandError> {
    let (state, metrics) = (PublishState::default(), Metrics::off().publishing());
    let random = Random::system();
    let (publisher, publishing) =
        Publisher::start(Arc::clone(connector), topology.clone(), state, metrics, random.clone());
    let publication = Publication {
        exchange: topology.exchange(EXCHANGE),
        routing_key: ROUTING_KEY.to_owned(),
        properties: properties::start_event(message_id, &TraceContext::begin(&random), Timestamp::now()),
        body: body.into(),
    };
    let limit = loaded.config.amqp.connect_timeout.get() + loaded.config.amqp.timeout.get();
    let result = timeout(limit, publisher.publish(publication)).await.map_err(|_| {
        CommandError::Failed(format!(
            "no confirm from the broker within {limit:?}: the event may or may not have been published; hint: {repeat}"
        ))
    })?;
    drop(publisher);
    // If the event is confirmed, a failure to close the connection does not matter.
    if let Ok(Ok(Err(error))) = timeout(Duration::from_secs(1), publishing).await {
        return Err(CommandError::Failed(format!("the event was not published: {error}")));
    }
    result.map_err(|error| match error {
        PublishError::Unknown => CommandError::Failed(format!(
            "the broker did not confirm: the event may or may not have been published; hint: {repeat}"
        )),
        error => CommandError::Failed(format!("the event was not published: {error}")),
    })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, CommandError> {
    let mut body = Vec::new();
    let limit = BODY_BYTES_MAX as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_end(&mut body)?;
    } else {
        let file = std::fs::File::open(path)
            .map_err(|error| CommandError::Usage(format!("{}: {error}", path.display())))?;
        file.take(limit).read_to_end(&mut body)?;
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(CommandError::Usage(format!(
            "{}: expected at most {BODY_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(body)
}

fn build(args: &Args, session: &str) -> Result<Value, CommandError> {
    if args.guest.is_empty() || args.expert.is_empty() {
        return Err(CommandError::Usage("expected --file, or at least one --guest and one --expert, such as --guest sms:+14155550123:Ben --expert expert@example.com".to_owned()));
    }
    let guests: Vec<Value> = args.guest.iter().map(|guest| self::guest(guest)).collect();
    let experts: Vec<Value> = args.expert.iter().map(|email| json!({"email": email})).collect();
    let mut event = json!({"sessionId": session, "guests": guests, "experts": experts});
    if !args.device.is_empty() {
        event["devices"] = json!(args.device);
    }
    Ok(event)
}

fn guest(text: &str) -> Value {
    let mut parts = text.splitn(3, ':');
    let (channel, address) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match parts.next() {
        Some(name) => json!({"channel": channel, "address": address, "name": name}),
        None => json!({"channel": channel, "address": address}),
    }
}

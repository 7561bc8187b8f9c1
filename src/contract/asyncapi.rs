//! The description of the messages on the broker in `AsyncAPI` 3.0, generated from the types on the wire and the table of stages. Bindings:
//! `AsyncAPI`'s AMQP bindings 0.3.0.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    header,
    link::{GUEST_LINK_TYPE, GuestLink, HOST_LINK_TYPE, HostLink},
    outgoing::Route,
    schemas::define,
    stage::{MessageKind, QueueDef, StageDef, queues},
    start_session::StartSession,
};

/// Version of the AMQP bindings.
const BINDING_VERSION: &str = "0.3.0";
/// The prefix of all names (`topology.prefix`) in the document: the default.
const PREFIX: &str = "instant-connect";

/// A message in the document.
struct MessageDoc {
    /// Name of the message and of its schema.
    name: &'static str,
    /// The property `type`; empty where it is free.
    kind: &'static str,
    summary: &'static str,
}

const fn described(kind: MessageKind) -> MessageDoc {
    match kind {
        MessageKind::StartEvent => MessageDoc {
            name: "StartSession",
            kind: "",
            summary: "A start event. message_id is the event id: a repeat with the same id and content has no second effect.",
        },
        MessageKind::GuestLink => MessageDoc {
            name: "GuestLink",
            kind: GUEST_LINK_TYPE,
            summary: "A guest's link. message_id is the same at every repeat.",
        },
        MessageKind::HostLink => MessageDoc {
            name: "HostLink",
            kind: HOST_LINK_TYPE,
            summary: "The host's link, for the expert only. message_id is the same at every repeat.",
        },
    }
}

/// The document for `stages`, with the default `topology.prefix`.
#[must_use]
pub fn document(stages: &[&'static StageDef]) -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for queue in queues(stages) {
        channels.insert(queue_channel(queue), of_queue(queue));
        for (exchange, key) in queue.bindings {
            channels.insert(key_channel(key), of_routing_key(exchange, key, queue.messages));
        }
    }
    for stage in stages {
        operations.insert(format!("receive-{}", stage.name), receive(stage));
        for route in stage.routes {
            operations.insert(format!("send-{}", key_channel(route.routing_key)), send(route));
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Instant Connect worker",
            "version": "1",
            "description": "Flows publish start events. The worker publishes a link for each guest and each expert. Names have the \
                            default prefix; topology.prefix changes it. A message that cannot be processed is in the dead queue, \
                            QUEUE.dead.",
            "license": {"name": "MIT"}
        },
        "defaultContentType": "application/json",
        "servers": {"broker": {
            "host": "{host}",
            "protocol": "amqp",
            "protocolVersion": "0-9-1",
            "variables": {"host": {"default": "localhost:5672", "description": "Host and port of RabbitMQ."}}
        }},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages(), "schemas": schemas()}
    })
}

fn queue_channel(queue: &QueueDef) -> String {
    format!("queue-{}", queue.name.replace('.', "-"))
}

fn key_channel(routing_key: &str) -> String {
    routing_key.replace('.', "-")
}

fn of_queue(queue: &QueueDef) -> Value {
    let name = format!("{PREFIX}.{}", queue.name);
    json!({
        "address": name,
        "description": "A quorum queue.",
        "messages": messages_of(queue.messages),
        "bindings": {"amqp": {
            "is": "queue",
            "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false},
            "bindingVersion": BINDING_VERSION
        }}
    })
}

fn of_routing_key(exchange: &str, key: &str, messages: MessageKind) -> Value {
    json!({
        "address": key,
        "messages": messages_of(messages),
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": {"name": format!("{PREFIX}.{exchange}"), "type": "topic", "durable": true, "autoDelete": false},
            "bindingVersion": BINDING_VERSION
        }}
    })
}

fn messages_of(kind: MessageKind) -> Value {
    let name = described(kind).name;
    json!({name: {"$ref": format!("#/components/messages/{name}")}})
}

fn receive(stage: &StageDef) -> Value {
    json!({
        "action": "receive",
        "channel": {"$ref": format!("#/channels/{}", queue_channel(stage.queue))},
        "summary": format!("Stage {} processes each message, and acks it after the effect.", stage.name),
        "bindings": {"amqp": {"ack": true, "bindingVersion": BINDING_VERSION}}
    })
}

fn send(route: &Route) -> Value {
    json!({
        "action": "send",
        "channel": {"$ref": format!("#/channels/{}", key_channel(route.routing_key))},
        "summary": format!("Publishes the link of each {} on channel {}.", route.role, route.channel),
        "bindings": {"amqp": {
            "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": BINDING_VERSION
        }}
    })
}

fn messages() -> Value {
    let kinds = [MessageKind::StartEvent, MessageKind::GuestLink, MessageKind::HostLink];
    let entries = kinds.into_iter().map(|kind| {
        let MessageDoc { name, kind, summary } = described(kind);
        let mut headers =
            json!({header::TRACEPARENT: {"type": "string", "description": "W3C Trace Context."}});
        let mut bindings = json!({"bindingVersion": BINDING_VERSION});
        if !kind.is_empty() {
            headers[header::DEDUPLICATION] = json!({"type": "string", "description": "As message_id."});
            bindings["messageType"] = kind.into();
        }
        let message = json!({
            "name": name,
            "summary": summary,
            "contentType": "application/json",
            "headers": {"type": "object", "properties": headers},
            "payload": {"$ref": format!("#/components/schemas/{name}")},
            "bindings": {"amqp": bindings}
        });
        (name.to_owned(), message)
    });
    Value::Object(entries.collect())
}

/// The schemas, in the draft on which `AsyncAPI`'s own schemas rest.
fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    let (draft, name) = (SchemaSettings::draft07, |kind| described(kind).name);
    define::<StartSession>(name(MessageKind::StartEvent), draft().for_deserialize(), &mut schemas);
    define::<GuestLink>(name(MessageKind::GuestLink), draft().for_serialize(), &mut schemas);
    define::<HostLink>(name(MessageKind::HostLink), draft().for_serialize(), &mut schemas);
    schemas
}

//! The description of the messages on the broker in `AsyncAPI` 3.0, generated from the types on the wire and the table of stages. Bindings:
//! `AsyncAPI`'s AMQP bindings 0.3.0.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{
    header,
    link::{GUEST_LINK_TYPE, GuestLink, HOST_LINK_TYPE, HostLink},
    outgoing::Route,
    people::Channel,
    receipt::{self, GuestReceipt},
    schemas::define,
    stage::{MessageKind, StageDef, queues},
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

const START: MessageDoc = MessageDoc {
    name: "StartSession",
    kind: "",
    summary: "A start event. message_id is the event id: a repeat with the same id and content has no second effect.",
};
const GUEST: MessageDoc = MessageDoc {
    name: "GuestLink",
    kind: GUEST_LINK_TYPE,
    summary: "A guest's link. message_id is the same at every repeat.",
};
const HOST: MessageDoc = MessageDoc {
    name: "HostLink",
    kind: HOST_LINK_TYPE,
    summary: "The host's link, for the expert only. message_id is the same at every repeat.",
};
const RECEIPT: MessageDoc = MessageDoc {
    name: "GuestReceipt",
    kind: receipt::RECEIPT_TYPE,
    summary: "The state of a message to a guest. Only if the worker sends the messages and accepts receipts (docs/receipts.md).",
};

const fn described(kind: MessageKind) -> &'static MessageDoc {
    match kind {
        MessageKind::StartEvent => &START,
        MessageKind::GuestLink => &GUEST,
        MessageKind::HostLink => &HOST,
    }
}

/// The document for `stages`, with the default `topology.prefix`.
#[must_use]
pub fn document(stages: &[&'static StageDef]) -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for queue in queues(stages) {
        let message = described(queue.messages);
        channels.insert(queue_channel(queue.name), of_queue(queue.name, message));
        for (exchange, key) in queue.bindings {
            channels.insert(key_channel(key), of_routing_key(exchange, key, message));
        }
    }
    channels.insert(queue_channel(receipt::EXCHANGE), of_queue(receipt::EXCHANGE, &RECEIPT));
    for route in [Channel::Sms, Channel::Whatsapp].map(receipt::route) {
        let channel = key_channel(route.routing_key);
        operations.insert(format!("send-{channel}"), send(&route, "Publishes the receipts of messages"));
        channels.insert(channel, of_routing_key(route.exchange, route.routing_key, &RECEIPT));
    }
    for stage in stages {
        operations.insert(format!("receive-{}", stage.name), receive(stage));
        for route in stage.routes {
            let what = format!("Publishes the link of each {}", route.role);
            operations.insert(format!("send-{}", key_channel(route.routing_key)), send(route, &what));
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

fn queue_channel(queue: &str) -> String {
    format!("queue-{}", queue.replace('.', "-"))
}

fn key_channel(routing_key: &str) -> String {
    routing_key.replace('.', "-")
}

fn of_queue(queue: &str, message: &MessageDoc) -> Value {
    let name = format!("{PREFIX}.{queue}");
    json!({
        "address": name,
        "description": "A quorum queue.",
        "messages": reference(message),
        "bindings": {"amqp": {
            "is": "queue",
            "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false},
            "bindingVersion": BINDING_VERSION
        }}
    })
}

fn of_routing_key(exchange: &str, key: &str, message: &MessageDoc) -> Value {
    json!({
        "address": key,
        "messages": reference(message),
        "bindings": {"amqp": {
            "is": "routingKey",
            "exchange": {"name": format!("{PREFIX}.{exchange}"), "type": "topic", "durable": true, "autoDelete": false},
            "bindingVersion": BINDING_VERSION
        }}
    })
}

fn reference(message: &MessageDoc) -> Value {
    let name = message.name;
    json!({name: {"$ref": format!("#/components/messages/{name}")}})
}

fn receive(stage: &StageDef) -> Value {
    json!({
        "action": "receive",
        "channel": {"$ref": format!("#/channels/{}", queue_channel(stage.queue.name))},
        "summary": format!("Stage {} processes each message, and acks it after the effect.", stage.name),
        "bindings": {"amqp": {"ack": true, "bindingVersion": BINDING_VERSION}}
    })
}

fn send(route: &Route, what: &str) -> Value {
    json!({
        "action": "send",
        "channel": {"$ref": format!("#/channels/{}", key_channel(route.routing_key))},
        "summary": format!("{what} on channel {}.", route.channel),
        "bindings": {"amqp": {
            "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": BINDING_VERSION
        }}
    })
}

fn messages() -> Value {
    let entries = [START, GUEST, HOST, RECEIPT].into_iter().map(|MessageDoc { name, kind, summary }| {
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
    let draft = SchemaSettings::draft07;
    define::<StartSession>(START.name, draft().for_deserialize(), &mut schemas);
    define::<GuestLink>(GUEST.name, draft().for_serialize(), &mut schemas);
    define::<HostLink>(HOST.name, draft().for_serialize(), &mut schemas);
    define::<GuestReceipt>(RECEIPT.name, draft().for_serialize(), &mut schemas);
    schemas
}

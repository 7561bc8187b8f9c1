//! JSON Schemas of the messages, generated from their types.

use schemars::{Schema, generate::SchemaSettings};

use super::{
    link::{GuestLink, HostLink},
    receipt::GuestReceipt,
    start_session::StartSession,
};

/// Names of the schemas: the file names under `config/schemas` (without `.json`) and the argument of `schema`.
pub const NAMES: [&str; 4] = ["start-session.v1", "guest-link.v1", "host-link.v1", "receipt.v1"];

/// Generates the schema `name` (JSON Schema 2020-12). `None` if the name is unknown.
#[must_use]
pub fn schema(name: &str) -> Option<Schema> {
    // Incoming types are described for deserialization, outgoing types for serialization.
    let incoming = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let outgoing = SchemaSettings::draft2020_12().for_serialize().into_generator();
    match name {
        "start-session.v1" => Some(incoming.into_root_schema_for::<StartSession>()),
        "guest-link.v1" => Some(outgoing.into_root_schema_for::<GuestLink>()),
        "host-link.v1" => Some(outgoing.into_root_schema_for::<HostLink>()),
        "receipt.v1" => Some(outgoing.into_root_schema_for::<GuestReceipt>()),
        _ => None,
    }
}

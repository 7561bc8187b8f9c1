//! JSON Schemas of the messages, generated from their types.

use schemars::{Schema, generate::SchemaSettings};

use super::{
    link::{GuestLink, HostLink},
    start_session::StartSession,
};

/// The names of the schemas, as files under `config/schemas` and as the argument of `schema`.
pub const NAMES: [&str; 3] = ["start-session.v1", "guest-link.v1", "host-link.v1"];

/// The schema called `name` (JSON Schema 2020-12), `None` for an unknown name.
#[must_use]
pub fn schema(name: &str) -> Option<Schema> {
    // Incoming types are described as they are read, outgoing ones as they are written.
    let read = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let written = SchemaSettings::draft2020_12().for_serialize().into_generator();
    match name {
        "start-session.v1" => Some(read.into_root_schema_for::<StartSession>()),
        "guest-link.v1" => Some(written.into_root_schema_for::<GuestLink>()),
        "host-link.v1" => Some(written.into_root_schema_for::<HostLink>()),
        _ => None,
    }
}

//! JSON Schemas of the messages, generated from their types.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Map, Value};

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

/// Adds the schema of `T` as `name`, and of the types in it, to the `schemas` of a document that has them in `components`.
pub(crate) fn define<T: JsonSchema>(
    name: &str,
    mut settings: SchemaSettings,
    schemas: &mut Map<String, Value>,
) {
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    let Value::Object(mut schema) = schema else { return };
    schema.remove("$schema");
    // `into_root_schema_for` puts the definitions at the path inside the schema itself.
    if let Some(Value::Object(mut components)) = schema.remove("components")
        && let Some(Value::Object(inner)) = components.remove("schemas")
    {
        schemas.extend(inner);
    }
    schemas.insert(name.to_owned(), Value::Object(schema));
}

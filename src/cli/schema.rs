//! `schema`: JSON Schemas of the messages and of the settings.

use std::path::PathBuf;

use serde_json::json;

use super::{CommandError, say_json};
use crate::{
    config,
    contract::{
        asyncapi,
        schemas::{NAMES, schema},
    },
    stages,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the schema (default: all schemas in one object)
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    name: Option<String>,
    /// Write each schema to a file in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "name")]
    write: Option<PathBuf>,
    /// Print the schema of the settings instead (draft 7), for editors and charts
    // Replaces the global option of the same name, so it must have its type; no file is loaded.
    #[arg(long, num_args = 0, default_missing_value = "settings", conflicts_with_all = ["name", "write"])]
    config: Option<PathBuf>,
    /// Print the description of the messages on the broker instead (asyncapi.json)
    #[arg(long, conflicts_with_all = ["name", "write", "config"])]
    asyncapi: bool,
}

pub(super) fn run(args: &Args) -> Result<(), CommandError> {
    if args.config.is_some() {
        return say_json(&config::schema::schema());
    }
    if args.asyncapi {
        return say_json(&asyncapi::document(stages::ALL));
    }
    match (&args.name, &args.write) {
        (Some(name), _) => say_json(&schema(name)),
        (None, Some(folder)) => {
            std::fs::create_dir_all(folder)?;
            for name in NAMES {
                let text = serde_json::to_string_pretty(&schema(name))
                    .map_err(|error| CommandError::Failed(error.to_string()))?;
                std::fs::write(folder.join(format!("{name}.json")), text + "\n")?;
            }
            Ok(())
        }
        (None, None) => say_json(
            &NAMES
                .into_iter()
                .map(|name| (name.to_owned(), json!(schema(name))))
                .collect::<serde_json::Map<_, _>>(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asyncapi_json_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/asyncapi.json");
        let text = format!("{:#}\n", asyncapi::document(stages::ALL));
        if std::env::var_os("ICW_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == text,
            "config/asyncapi.json is outdated: run `make openapi`"
        );
    }
}

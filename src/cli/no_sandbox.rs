//! `demo` and `sandbox` in a build without the feature `sandbox`: an error that names the reason.

use super::CommandError;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Any arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _ignored: Vec<String>,
}

pub(super) fn run(_: &Args) -> Result<(), CommandError> {
    Err(CommandError::Usage(
        "this build has no sandbox, so it has neither `demo` nor `sandbox`; hint: use the image that compose.yaml builds, or `make demo`"
            .to_owned(),
    ))
}

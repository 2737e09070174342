//! `dbctl generate`.

use clap::{Args, Subcommand};

use super::Context;
use super::error::{CliError, Result};

/// Print what is generated from the program's own types
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The CustomResourceDefinition of Database
    Crd,
}

/// Runs the command.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(context: &Context, args: &GenerateArgs) -> Result<()> {
    match args.what {
        What::Crd => {
            let yaml = crate::api::crd_yaml();
            context.ui.data(yaml.map_err(|error| CliError::failed(format!("write YAML: {error}")))?)
        }
    }
}

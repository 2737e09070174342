//! `dbctl generate`.

use clap::{Args, Subcommand};

use super::Context;
use super::error::{CliError, Result};
use crate::install::{NAMESPACE, Scope, rbac_yaml};

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
    /// What the controller may do: its ServiceAccount, role and binding
    ///
    /// -n NAMESPACE is where the controller runs.
    Rbac {
        /// The one namespace whose Databases it works for; all without it
        #[arg(long, value_name = "NAMESPACE")]
        watch: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(context: &Context, args: &GenerateArgs) -> Result<()> {
    let yaml = match &args.what {
        What::Crd => crate::api::crd_yaml(),
        What::Rbac { watch } => {
            let place = context.global.namespace.as_deref().unwrap_or(NAMESPACE);
            rbac_yaml(place, watch.as_deref().map_or(Scope::Cluster, Scope::Namespace))
        }
    };
    context.ui.data(yaml.map_err(|error| CliError::failed(format!("write YAML: {error}")))?)
}

//! `dbctl generate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::error::{CliError, Result};
use super::{Context, reference};
use crate::install::{Manifest, NAMESPACE, Scope, manifests, rbac_yaml, rights_table};

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
    /// The same as a table in Markdown that says why, which README.md has
    Rights,
    /// A page of the manual for each command
    #[command(after_help = "Examples:
  dbctl generate man /usr/local/share/man/man1")]
    Man {
        /// Where to write them
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    /// All commands in one document, in Markdown
    #[command(after_help = "Examples:
  dbctl generate reference > dbctl.md")]
    Reference,
    /// All files of manifests/, which are those of an installation for all namespaces
    Manifests {
        /// Where to write them
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// Where standard output, or a file, cannot be written.
pub fn run(context: &Context, args: &GenerateArgs) -> Result<()> {
    let yaml = match &args.what {
        What::Crd => crate::api::crd_yaml(),
        What::Rbac { watch } => {
            let place = context.global.namespace.as_deref().unwrap_or(NAMESPACE);
            rbac_yaml(place, watch.as_deref().map_or(Scope::Cluster, Scope::Namespace))
        }
        What::Rights => return context.ui.data(rights_table()),
        What::Manifests { directory } => return write_all(directory),
        What::Man { directory } => return manual(directory),
        What::Reference => return context.ui.data(reference::markdown(super::command())),
    };
    context.ui.data(yaml.map_err(not_written)?)
}

fn not_written(error: serde_yaml::Error) -> CliError {
    CliError::failed(format!("write YAML: {error}"))
}

/// Writes `dbctl.1`, `dbctl-create.1` and so on.
fn manual(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(super::command(), directory))
        .map_err(|error| CliError::failed(format!("write manual pages to {}: {error}", directory.display())))
}

fn write_all(directory: &Path) -> Result<()> {
    for Manifest { name, text } in manifests().map_err(not_written)? {
        let path = directory.join(name);
        std::fs::write(&path, text)
            .map_err(|error| CliError::failed(format!("write {}: {error}", path.display())))?;
    }
    Ok(())
}

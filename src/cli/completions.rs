//! `dbctl completions`.

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap_complete::env::Shells;

use super::Context;
use super::error::{CliError, Result};

/// The variable by which the shell asks for completions.
const VARIABLE: &str = "COMPLETE";
/// The shells that there are scripts for.
pub const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

/// Print the completion script of a shell
///
/// The script asks dbctl itself for completions, so that it knows the names of your databases too. To load it now:
/// source <(dbctl completions bash). To keep it, write it where your shell looks for completions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(dbctl completions bash)
  dbctl completions zsh > ~/.zfunc/_dbctl")]
pub struct CompletionsArgs {
    #[arg(value_parser = PossibleValuesParser::new(SHELLS))]
    shell: String,
}

/// Runs the command.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(context: &Context, args: &CompletionsArgs) -> Result<()> {
    context.ui.data(script(&args.shell)?)
}

/// The script that a shell sources.
fn script(shell: &str) -> Result<String> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell);
    let completer =
        completer.ok_or_else(|| CliError::usage(format!("there is no completion for {shell}")))?;
    let mut text = Vec::new();
    completer.write_registration(VARIABLE, "dbctl", "dbctl", "dbctl", &mut text)?;
    String::from_utf8(text).map_err(|error| CliError::failed(format!("write the script: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_scripts_have_not_drifted() {
        for shell in SHELLS {
            let path = format!("{}/completions/dbctl.{shell}", env!("CARGO_MANIFEST_DIR"));
            let committed = std::fs::read_to_string(&path).unwrap();
            assert!(
                committed == script(shell).unwrap(),
                "run `cargo run -- completions {shell} > completions/dbctl.{shell}`"
            );
        }
    }

    #[test]
    fn every_shell_that_can_ask_has_a_script() {
        assert!(Shells::builtins().names().eq(SHELLS));
    }
}

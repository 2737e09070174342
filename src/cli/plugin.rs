//! `kubectl db`: the same program, under the names by which kubectl finds its plugins and their completions.
//! <https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::engine;

/// What kubectl runs for `kubectl db`.
const PLUGIN: &str = "kubectl-db";
/// What it asks for completions.
const COMPLETION: &str = "kubectl_complete-db";
/// How a user calls it.
pub const CALLED: &str = "kubectl db";
/// The files of the working directory are no candidates: the directive `ShellCompDirectiveNoFileComp` of the library that
/// kubectl is built with. <https://github.com/spf13/cobra/blob/main/completions.go>
const NO_FILES: u8 = 4;

fn is_called(program: &OsStr, name: &str) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(name))
}

/// Whether kubectl runs this program as its plugin.
pub fn runs(program: &OsStr) -> bool {
    is_called(program, PLUGIN) || completes(program)
}

/// Whether kubectl asks it for completions.
pub fn completes(program: &OsStr) -> bool {
    is_called(program, COMPLETION)
}

/// The definition as kubectl's plugin shows it: in usage lines and examples it is called by kubectl's name.
pub fn renamed(definition: Command) -> Command {
    examples(definition.bin_name(CALLED))
}

fn examples(command: Command) -> Command {
    let told = command.get_after_help().map(|told| told.to_string());
    let command = match told {
        Some(told) if told.contains("dbctl ") => command.after_help(told.replace("dbctl ", "kubectl db ")),
        _ => command,
    };
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, examples))
}

/// Answers kubectl: a candidate a line, with what it means after a tab, and last what the shell is to do with them. Where
/// there is nothing to say, or something fails, the shell hears just that.
pub fn complete(definition: Command, args: &[OsString]) -> ExitCode {
    let mut definition = definition;
    // kubectl passes what was typed after `kubectl db`, the word under the cursor last.
    let index = args.len().saturating_sub(1);
    let found = engine::complete(&mut definition, args.to_vec(), index, None).unwrap_or_default();
    let mut text = String::new();
    for candidate in found.iter().filter(|candidate| !candidate.is_hide_set()) {
        text.push_str(&candidate.get_value().to_string_lossy());
        if let Some(help) = candidate.get_help() {
            let help = help.to_string();
            text.push('\t');
            text.push_str(help.lines().next().unwrap_or_default());
        }
        text.push('\n');
    }
    text.push_str(&format!(":{NO_FILES}\n"));
    // A shell that has gone needs no answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_who_calls() {
        for (program, run, complete) in [
            ("/usr/local/bin/kubectl-db", true, false),
            ("kubectl_complete-db", true, true),
            ("./dbctl", false, false),
            ("kubectl-db/dbctl", false, false),
        ] {
            let program = OsStr::new(program);
            assert_eq!((runs(program), completes(program)), (run, complete), "{program:?}");
        }
    }

    #[test]
    fn help_is_kubectls() {
        let mut definition = renamed(crate::cli::command());
        definition.build();
        fn check(command: &mut Command) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Usage: kubectl db") && !help.contains("\n  dbctl "), "{help}");
            command.get_subcommands_mut().filter(|sub| sub.get_name() != "help").for_each(check);
        }
        check(&mut definition);
    }
}

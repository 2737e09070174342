//! Asking before something is done that cannot be undone, or that everybody notices.

use std::io::{ErrorKind, IsTerminal as _};

use super::Context;
use super::error::{CliError, Result};

/// Asks for a yes. `kept` says what is so where it is not given, for example `the sandbox is not deleted`.
///
/// # Errors
/// Where the answer is no, or there is no terminal to ask at.
pub fn yes(context: &Context, question: &str, kept: &str) -> Result<()> {
    let answer = ask(context, &format!("{question} [y/N]"), kept)?;
    if ["y", "yes"].contains(&answer.to_lowercase().as_str()) { Ok(()) } else { Err(CliError::refused(kept)) }
}

/// Asks for a name to be typed: for what loses something, a yes comes too easily.
///
/// # Errors
/// Where another name is typed, or there is no terminal to ask at.
pub fn name(context: &Context, name: &str, to: &str, kept: &str) -> Result<()> {
    let typed = ask(context, &format!("Type the name ({name}) to {to}"), kept)?;
    if typed == name { Ok(()) } else { Err(CliError::refused(format!("{kept}: {typed:?} is not its name"))) }
}

/// Asks for a line. The library's own question for a yes hides the cursor, and leaves it so where it is interrupted; this does not.
fn ask(context: &Context, question: &str, kept: &str) -> Result<String> {
    // Without a terminal there is nobody to ask: the command line lacks its --yes.
    if !std::io::stdin().is_terminal() || !context.ui.is_live() {
        return Err(CliError::usage(format!("{kept}: there is no terminal to ask at"))
            .hint("to do it without being asked, add --yes"));
    }
    let asked = dialoguer::Input::<String>::new().with_prompt(question).allow_empty(true).interact_text();
    match asked {
        Ok(typed) => Ok(typed.trim().to_owned()),
        Err(dialoguer::Error::IO(error)) if error.kind() == ErrorKind::Interrupted => {
            Err(CliError::refused(kept))
        }
        Err(error) => Err(CliError::failed(format!("ask: {error}"))),
    }
}

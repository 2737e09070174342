//! Asking before something is done that cannot be undone, or that everybody notices.

use std::io::IsTerminal as _;

use super::Context;
use super::error::{CliError, Result};

/// Asks for a yes. `kept` says what is so where it is not given, for example `the sandbox is not deleted`.
///
/// # Errors
/// Where the answer is no, or there is no terminal to ask at.
pub fn yes(context: &Context, question: &str, kept: &str) -> Result<()> {
    terminal(context, kept)?;
    let answer = dialoguer::Confirm::new().with_prompt(question).default(false).interact();
    if answer.map_err(cannot_ask)? { Ok(()) } else { Err(CliError::refused(kept)) }
}

/// Asks for a name to be typed: for what loses something, a yes comes too easily.
///
/// # Errors
/// Where another name is typed, or there is no terminal to ask at.
pub fn name(context: &Context, name: &str, to: &str, kept: &str) -> Result<()> {
    terminal(context, kept)?;
    let question = format!("Type the name ({name}) to {to}");
    let typed: String = dialoguer::Input::new()
        .with_prompt(question)
        .allow_empty(true)
        .interact_text()
        .map_err(cannot_ask)?;
    let typed = typed.trim();
    if typed == name { Ok(()) } else { Err(CliError::refused(format!("{kept}: {typed:?} is not its name"))) }
}

/// Without a terminal there is nobody to ask: the command line lacks its --yes.
fn terminal(context: &Context, kept: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && context.ui.is_live() {
        return Ok(());
    }
    Err(CliError::usage(format!("{kept}: there is no terminal to ask at"))
        .hint("to do it without being asked, add --yes"))
}

fn cannot_ask(error: dialoguer::Error) -> CliError {
    CliError::failed(format!("ask: {error}"))
}

//! The terminal: data goes to standard output, everything else to standard error; colours where they are wanted.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Effects, Style};
use comfy_table::{Cell, ContentArrangement, Table};

use super::error::{CliError, Result};

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set; CLICOLOR_FORCE colours everywhere
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What a piece of text says; colours follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
    /// Nothing special.
    Plain,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default() | Effects::BOLD,
            Tone::Faint => Style::new() | Effects::DIMMED,
            Tone::Strong => Style::new() | Effects::BOLD,
            Tone::Plain => Style::new(),
        }
    }
}

/// What is known about the two outputs.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    out_color: bool,
    err_color: bool,
    err_terminal: bool,
}

/// The rule of <https://no-color.org> and <https://bixense.com/clicolors>: NO_COLOR wins over CLICOLOR_FORCE.
fn wants_color(choice: ColorChoice, terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| env(name).is_some_and(|value| !value.is_empty());
    let forced = env("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR") => false,
        ColorChoice::Auto if forced => true,
        ColorChoice::Auto => terminal && env("TERM").as_deref() != Some("dumb"),
    }
}

impl Ui {
    /// For this process's outputs.
    pub fn new(choice: ColorChoice) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let err_terminal = io::stderr().is_terminal();
        Self {
            out_color: wants_color(choice, io::stdout().is_terminal(), env),
            err_color: wants_color(choice, err_terminal, env),
            err_terminal,
        }
    }

    /// Whether standard error can show progress that redraws itself.
    pub fn is_live(&self) -> bool {
        self.err_terminal
    }

    /// Whether standard error takes colours.
    pub fn colors_err(&self) -> bool {
        self.err_color
    }

    /// Text for standard output, coloured where that is wanted.
    pub fn paint(&self, tone: Tone, text: impl Display) -> String {
        paint(self.out_color, tone, text)
    }

    /// Text for standard error, coloured where that is wanted.
    pub fn paint_err(&self, tone: Tone, text: impl Display) -> String {
        paint(self.err_color, tone, text)
    }

    /// Writes data, as it is, to standard output.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn data(&self, text: impl Display) -> Result<()> {
        let mut out = io::stdout().lock();
        write!(out, "{text}")?;
        out.flush()?;
        Ok(())
    }

    /// Tells something on standard error.
    pub fn note(&self, text: impl Display) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Warns on standard error.
    pub fn warn(&self, text: impl Display) {
        self.note(format_args!("{} {text}", self.paint_err(Tone::Warning, "warning:")));
    }

    /// Says on standard error why a command ends.
    pub fn error(&self, error: &CliError) {
        let text = error.render(&self.paint_err(Tone::Bad, "error:"), &self.paint_err(Tone::Strong, "hint:"));
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

fn paint(enabled: bool, tone: Tone, text: impl Display) -> String {
    if enabled && tone != Tone::Plain {
        let style = tone.style();
        format!("{style}{text}{style:#}")
    } else {
        text.to_string()
    }
}

/// Columns of text, as kubectl prints them: separated by spaces, no lines, nothing wrapped or cut.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| Cell::new(*name)));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_follow_the_choice_then_the_environment_then_the_terminal() {
        use ColorChoice::{Always, Auto, Never};
        type Env = &'static [(&'static str, &'static str)];
        let cases: [(ColorChoice, bool, Env, bool); 9] = [
            (Auto, true, &[], true),
            (Auto, false, &[], false),
            (Auto, true, &[("NO_COLOR", "1")], false),
            (Auto, true, &[("NO_COLOR", "")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "1")], true),
            (Auto, false, &[("CLICOLOR_FORCE", "0")], false),
            (Auto, true, &[("TERM", "dumb")], false),
            (Always, false, &[("NO_COLOR", "1")], true),
            (Never, true, &[("CLICOLOR_FORCE", "1")], false),
        ];
        for (choice, terminal, env, expected) in cases {
            let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
            assert_eq!(wants_color(choice, terminal, get), expected, "{choice:?} {terminal} {env:?}");
        }
    }

    #[test]
    fn tables_line_up_without_trailing_blanks() {
        let text = table(&["NAME", "PHASE"], [vec!["orders-db".into(), "Running".into()]]);
        assert_eq!(text, "NAME        PHASE\norders-db   Running\n");
    }
}

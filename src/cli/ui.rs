//! The terminal: data goes to standard output, everything else to standard error; colours where they are wanted.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Effects, Style};
use comfy_table::{Cell, ContentArrangement, Table};

use super::error::{CliError, Result};
use super::output;

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

/// How wide a terminal that shows data is; 0 where there is none.
static WIDTH: AtomicUsize = AtomicUsize::new(0);

/// Has tables fit the terminal that shows them, as wide as it is now. What goes into a pipe stays one line a row, for programs.
/// Returns columns and rows, where it has any.
pub fn fit_to_terminal() -> Option<(usize, usize)> {
    let out = io::stdout();
    let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
    let (columns, rows) = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)))?;
    WIDTH.store(if columns < NARROWEST { 0 } else { columns }, Ordering::Relaxed);
    (columns > 0 && rows > 0).then_some((columns, rows))
}

/// A terminal that says it is narrower does not know.
const NARROWEST: usize = 40;
/// A column of words may be folded down to this.
const FOLDED: usize = 20;
/// Between two columns.
const GAP: u16 = 3;

/// Columns of text, as kubectl prints them: separated by spaces, no lines, nothing wrapped or cut. Where a terminal is too
/// narrow for that, what has words in it is folded, and where that is not enough, each row becomes a paragraph.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let width = Some(WIDTH.load(Ordering::Relaxed)).filter(|width| *width > 0);
    table_within(width, header, &rows)
}

fn table_within(width: Option<usize>, header: &[&str], rows: &[Vec<String>]) -> String {
    let whole = columns(header, rows);
    let Some(width) = width.filter(|width| widest(&whole) > *width) else { return whole };
    if let Some(folded) = folded(width, header, rows) {
        let text = columns(header, &folded);
        if widest(&text) <= width {
            return text;
        }
    }
    paragraphs(width, header, rows)
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// The rows with the widest column of words folded to what the others leave; none where that is too little.
fn folded(width: usize, header: &[&str], rows: &[Vec<String>]) -> Option<Vec<Vec<String>>> {
    let cells = |index: usize| rows.iter().filter_map(move |row| row.get(index));
    let own = |index: usize| {
        let title = header.get(index).map_or(0, |title| title.len());
        cells(index).map(|cell| cell.chars().count()).chain([title]).max().unwrap_or(0)
    };
    let wordy = (0..header.len()).filter(|index| cells(*index).any(|cell| cell.contains(' ')));
    let fold = wordy.max_by_key(|index| own(*index))?;
    let gaps = header.len().saturating_sub(1).saturating_mul(usize::from(GAP));
    let others: usize = (0..header.len()).filter(|index| *index != fold).map(own).sum();
    let room = width.checked_sub(others + gaps).filter(|room| *room >= FOLDED)?;
    let mut rows = rows.to_vec();
    for cell in rows.iter_mut().filter_map(|row| row.get_mut(fold)) {
        *cell = output::folded(cell, room);
    }
    Some(rows)
}

/// Each row as lines of a title and a value.
fn paragraphs(width: usize, header: &[&str], rows: &[Vec<String>]) -> String {
    let title = header.iter().map(|title| title.len()).max().unwrap_or(0);
    let indent = " ".repeat(title + 2);
    let room = width.saturating_sub(indent.len()).max(FOLDED);
    let paragraph = |row: &Vec<String>| {
        let line = |(name, cell): (&&str, &String)| {
            let value = output::folded(cell, room).replace('\n', &format!("\n{indent}"));
            format!("{name:<title$}  {value}\n")
        };
        header.iter().zip(row).map(line).collect::<String>()
    };
    rows.iter().map(paragraph).collect::<Vec<_>>().join("\n")
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| Cell::new(*name)));
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
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
    #[test]
    fn what_is_too_wide_is_folded_or_told_in_paragraphs() {
        let name = "a-name-of-forty-letters-is-as-long-as-it"; // the longest that there may be
        let story =
            "ImagePullBackOff: Back-off pulling image \"dbctl/postgres:16.99\": failed to find a build of it";
        let header = ["MEMBER", "ROLE", "STATE", "READY", "TIMELINE", "LAG", "NODE"];
        let row = |name: &str, state: &str| {
            ["0", "primary", "", "no", "1", "-", "sandbox"]
                .iter()
                .enumerate()
                .map(|(index, cell)| match index {
                    0 => format!("{name}-0"),
                    2 => state.to_owned(),
                    _ => (*cell).to_owned(),
                })
                .collect::<Vec<_>>()
        };
        for (name, state) in [("db", story), (name, "running"), (name, story), ("db", &"x".repeat(300))] {
            let text = table_within(Some(80), &header, &[row(name, state), row(name, "running")]);
            assert!(widest(&text) <= 80 && text.contains(&format!("{name}-0")), "{text}");
            assert!(table_within(None, &header, &[row(name, state)]).contains(state));
        }
        let folded = table_within(Some(80), &header, &[row("db", story)]);
        assert!(folded.starts_with("MEMBER   ROLE      STATE") && folded.lines().count() > 3, "{folded}");
        let paragraphs = table_within(Some(80), &header, &[row(name, "running"), row(name, story)]);
        assert!(paragraphs.starts_with(&format!("MEMBER    {name}-0\nROLE      primary\n")), "{paragraphs}");
        assert_eq!(paragraphs.matches("\n\nMEMBER ").count(), 1, "{paragraphs}");
    }
}

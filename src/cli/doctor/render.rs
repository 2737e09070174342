//! Findings for people, on a terminal of 80 columns.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::Diagnosis;
use super::finding::{Finding, Severity};
use crate::cli::output;
use crate::cli::ui::{Tone, Ui};

/// The widest line, but for commands, which must stay whole to be copied.
const WIDTH: usize = 80;
/// What stands before each line of a finding but its first.
const INDENT: &str = "         ";
/// More of what somebody said than this is no help at a glance; `-o json` has all of it.
const SAID: usize = 400;

fn word(severity: Severity) -> (&'static str, Tone) {
    match severity {
        Severity::Critical => ("CRITICAL", Tone::Bad),
        Severity::Problem => ("PROBLEM", Tone::Bad),
        Severity::Warning => ("WARNING", Tone::Warning),
        Severity::Note => ("note", Tone::Faint),
    }
}

/// The whole text.
pub fn render(ui: &Ui, diagnosis: &Diagnosis, now: Timestamp) -> String {
    let mut text = String::new();
    let several = diagnosis.databases.len() > 1;
    let _ = writeln!(text, "{}", headline(ui, diagnosis));
    for finding in &diagnosis.findings {
        text.push('\n');
        one(&mut text, ui, finding, several, now);
    }
    text
}

/// How much of what there is.
fn headline(ui: &Ui, diagnosis: &Diagnosis) -> String {
    let looked = match diagnosis.databases.as_slice() {
        [] => "no database".to_owned(),
        [one] => format!("database {one}"),
        many => format!("{} databases", many.len()),
    };
    let count = |severity| diagnosis.findings.iter().filter(|finding| finding.severity == severity).count();
    let counts: Vec<String> = [
        (Severity::Critical, "critical", "critical"),
        (Severity::Problem, "problem", "problems"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Note, "note", "notes"),
    ]
    .into_iter()
    .filter_map(|(severity, one, many)| match count(severity) {
        0 => None,
        1 => Some(format!("1 {one}")),
        more => Some(format!("{more} {many}")),
    })
    .collect();
    let told = counts.join(", ");
    if diagnosis.healthy {
        let rest = if told.is_empty() { String::new() } else { format!(" ({told})") };
        ui.paint(Tone::Good, format_args!("{looked}: nothing is wrong{rest}"))
    } else {
        ui.paint(Tone::Strong, format_args!("{looked}: {told}"))
    }
}

fn one(text: &mut String, ui: &Ui, finding: &Finding, several: bool, now: Timestamp) {
    let (label, tone) = word(finding.severity);
    let place = finding.database.as_ref().filter(|_| several).map(|database| format!("{database}: "));
    let since = finding.since.map(|since| format!(", for {}", output::age(since, now)));
    let what = format!("{}{}{}", place.unwrap_or_default(), finding.what, since.unwrap_or_default());
    let lines = folded(&what);
    let _ = writeln!(text, "{} {lines}", ui.paint(tone, format_args!("{label:<8}")));
    let mut part = |name: &str, said: &str| {
        let _ = writeln!(text, "  {} {}", ui.paint(Tone::Faint, format_args!("{name:<6}")), folded(said));
    };
    if let Some(why) = &finding.why {
        part("why", &short(why));
    }
    for (index, consequence) in finding.consequences.iter().enumerate() {
        part(if index == 0 { "so" } else { "" }, consequence);
    }
    for (index, command) in finding.next.iter().enumerate() {
        let name = if index == 0 { "next" } else { "" };
        let _ = writeln!(text, "  {} {command}", ui.paint(Tone::Faint, format_args!("{name:<6}")));
    }
}

/// Lines below each other, none wider than there is room, whatever the words.
fn folded(text: &str) -> String {
    output::folded(text, WIDTH - INDENT.len()).replace('\n', &format!("\n{INDENT}"))
}

fn short(text: &str) -> String {
    if text.chars().count() <= SAID {
        return text.to_owned();
    }
    text.chars().take(SAID).chain("…".chars()).collect()
}

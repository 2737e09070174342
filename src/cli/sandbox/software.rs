//! Software for the sandbox's databases, installed with a progress bar.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::PgVersion;
use crate::cli::Context;
use crate::cli::controller::DEFAULT_IMAGE;
use crate::cli::error::{CliError, Outcome, Result};
use crate::cli::ui::{Tone, Ui};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;
use crate::sandbox::provision::{Image, Progress, ProvisionError, Provisioner};

/// The image that a database of that release runs.
fn image(version: PgVersion) -> String {
    DEFAULT_IMAGE.replace("{version}", &version.to_string())
}

/// The software of a release, installed where it is not yet.
///
/// # Errors
/// Where no such build exists, or it cannot be installed.
pub fn install(context: &Context, home: &Home, version: PgVersion) -> Result<Image> {
    let image = image(version);
    let progress = Bars { ui: context.ui, bar: Mutex::new(None), said: Mutex::default() };
    Provisioner::new(home.cache()).ensure(&image, &progress).map_err(|error| {
        let unknown = matches!(error, ProvisionError::Unknown { .. });
        let mut shown = CliError::failed(&error);
        if unknown {
            shown.outcome = Outcome::Usage;
            shown = shown.hint("name one of them; nothing was changed");
        }
        shown
    })
}

/// Whether there is a build of a release, which is not installed for that.
///
/// # Errors
/// Where there is none, or nobody can tell.
pub fn exists(home: &Home, version: PgVersion) -> Result<()> {
    let provisioner = Provisioner::new(home.cache());
    if provisioner.cached(&image(version)).map_err(CliError::failed)?.is_some() {
        return Ok(());
    }
    let all = provisioner.available().map_err(CliError::failed)?;
    if all.contains(&version.to_string()) {
        return Ok(());
    }
    let major = format!("{}.", version.major());
    let same: Vec<&str> = all.iter().map(String::as_str).filter(|tag| tag.starts_with(&major)).collect();
    Err(CliError::usage(format!("failed to find a build of PostgreSQL {version}"))
        .details([format!("of {} there are {}", version.major(), same.join(", "))])
        .hint("name one of them; nothing was changed"))
}

/// Installs the software before a sandbox that does not run is started for it: where no such build exists, no process
/// and no state are left behind.
///
/// # Errors
/// Where no such build exists, or it cannot be installed.
pub fn before_start(context: &Context, version: PgVersion) -> Result<()> {
    if !context.global.sandbox {
        return Ok(());
    }
    let home = Home::locate().map_err(CliError::failed)?;
    match Daemon::new(home.clone()).state() {
        Ok(State::Stopped) => install(context, &home, version).map(drop),
        // What is wrong with the home is said by whoever starts the sandbox in it.
        _ => Ok(()),
    }
}

/// Draws installation steps on a terminal, and elsewhere prints a line for each.
struct Bars {
    ui: Ui,
    bar: Mutex<Option<(ProgressBar, String)>>,
    /// What the last plain line said.
    said: Mutex<String>,
}

impl Bars {
    /// A plain line for a step; the files of one step are not told one by one.
    fn say(&self, step: &str) {
        let step = step.split_once(": ").map_or(step, |(step, _)| step);
        if let Ok(mut said) = self.said.lock()
            && *said != step
        {
            step.clone_into(&mut said);
            self.ui.note(format_args!("{} {step}", self.ui.paint_err(Tone::Faint, "·")));
        }
    }

    fn with(&self, act: impl FnOnce(&mut Option<(ProgressBar, String)>)) {
        if let Ok(mut bar) = self.bar.lock() {
            act(&mut bar);
        }
    }
}

fn style(sized: bool) -> ProgressStyle {
    let template = if sized {
        "{spinner} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
    } else {
        "{spinner} {wide_msg}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏", " "])
        .progress_chars("=> ")
}

impl Progress for Bars {
    fn start(&self, step: &str, total: Option<u64>) {
        self.finish();
        if !self.ui.is_live() {
            return self.say(step);
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_style(style(total.is_some()));
        bar.set_message(step.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.with(|place| *place = Some((bar, step.to_owned())));
    }

    fn advance(&self, bytes: u64) {
        self.with(|place| {
            if let Some((bar, _)) = place {
                bar.inc(bytes);
            }
        });
    }

    fn message(&self, text: &str) {
        self.with(|place| match place {
            Some((bar, step)) => bar.set_message(format!("{step}: {text}")),
            None => tracing::debug!("{text}"),
        });
    }

    fn finish(&self) {
        self.with(|place| {
            if let Some((bar, step)) = place.take() {
                bar.finish_and_clear();
                if !step.contains(": ") {
                    self.ui.note(format_args!("{} {step}", self.ui.paint_err(Tone::Good, "✓")));
                }
            }
        });
    }
}

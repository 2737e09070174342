//! Progress on standard error: lines that redraw themselves on a terminal, else one plain line per step.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::ui::{Tone, Ui};

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Under way.
    Working,
    /// Done.
    Done,
    /// Went wrong.
    Failed,
}

/// A list of steps, each known by a key.
pub struct Steps {
    ui: Ui,
    bars: MultiProgress,
    lines: HashMap<String, Line>,
}

struct Line {
    step: Step,
    text: String,
    bar: Option<ProgressBar>,
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏", " "])
}

fn settled() -> ProgressStyle {
    ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Steps {
    /// An empty list.
    pub fn new(ui: Ui) -> Self {
        Self { ui, bars: MultiProgress::new(), lines: HashMap::new() }
    }

    /// Says how far the step of that key is. Saying the same again changes nothing.
    pub fn set(&mut self, key: &str, step: Step, text: impl Into<String>) {
        let text = text.into();
        if self.lines.get(key).is_some_and(|line| line.step == step && line.text == text) {
            return;
        }
        let old = self.lines.remove(key).and_then(|line| line.bar);
        let bar = if self.ui.is_live() {
            let bar = old.unwrap_or_else(|| self.bars.add(ProgressBar::new_spinner()));
            self.draw(&bar, step, &text);
            Some(bar)
        } else {
            self.ui.note(format_args!("{} {text}", self.mark(step)));
            None
        };
        self.lines.insert(key.to_owned(), Line { step, text, bar });
    }

    fn mark(&self, step: Step) -> String {
        match step {
            Step::Working => self.ui.paint_err(Tone::Faint, "·"),
            Step::Done => self.ui.paint_err(Tone::Good, "✓"),
            Step::Failed => self.ui.paint_err(Tone::Bad, "✗"),
        }
    }

    fn draw(&self, bar: &ProgressBar, step: Step, text: &str) {
        if step == Step::Working {
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message(text.to_owned());
        } else {
            bar.disable_steady_tick();
            bar.set_style(settled());
            bar.set_message(format!("{} {text}", self.mark(step)));
            bar.tick();
        }
    }

    /// Leaves what is drawn where it is; spinners stop.
    pub fn finish(&mut self) {
        for line in self.lines.values() {
            if let Some(bar) = &line.bar {
                bar.abandon();
            }
        }
        self.lines.clear();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.finish();
    }
}

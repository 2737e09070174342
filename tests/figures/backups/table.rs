//! What was measured, as lines of one table.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[half],
        all => f64::midpoint(all[half - 1], all[half]),
    }
}

/// A figure, and what it is held against.
pub struct Row {
    what: String,
    unit: &'static str,
    values: Vec<f64>,
    aim: Option<(f64, String)>,
    beside: Vec<String>,
}

impl Row {
    pub fn new(what: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        Self { what: what.into(), unit, values, aim: None, beside: Vec::new() }
    }

    /// No more than that.
    pub fn at_most(mut self, limit: f64) -> Self {
        self.aim = Some((limit, format!("≤ {}", number(limit, self.unit))));
        self
    }

    /// No more than so many times the median of another.
    pub fn at_most_times(mut self, factor: f64, other: &[f64], name: &str) -> Self {
        let limit = median(other) * factor;
        self.aim = Some((limit, format!("≤ {factor} × {name} = {}", number(limit, self.unit))));
        self
    }

    /// What another takes for the same; nothing where it was not measured.
    pub fn beside(mut self, name: &str, other: &[f64]) -> Self {
        self.beside.push(match other {
            [] => format!("{name}: not measured here"),
            _ => {
                let (middle, ratio) = (median(other), median(other) / median(&self.values));
                format!("{name}: {} ({ratio:.2} ×)", number(middle, self.unit))
            }
        });
        self
    }

    /// Says it at once: who waits for the table waits long, and it may never come.
    pub fn told(self) -> Self {
        println!("{}", self.cells().join(" | ").replace('\n', "; "));
        self
    }

    fn cells(&self) -> [String; 6] {
        let middle = median(&self.values);
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let spread = match self.values.len() {
            0 | 1 => "once".to_owned(),
            _ => format!("{}–{}", number(least, ""), number(most, self.unit)),
        };
        let (aim, met) = match &self.aim {
            None => ("–".to_owned(), "–"),
            Some((limit, text)) => (text.clone(), if middle <= *limit { "met" } else { "NOT MET" }),
        };
        [self.what.clone(), number(middle, self.unit), spread, aim, met.to_owned(), self.beside.join("\n")]
    }
}

/// Three digits that count.
fn number(value: f64, unit: &str) -> String {
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

/// Prints them.
pub fn print(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["what", "median", "min–max", "aim", "", "beside it (× dbctl's)"]);
    table.add_rows(rows.iter().map(Row::cells));
    println!("{table}");
}

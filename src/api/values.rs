//! What a setting of PostgreSQL may be, as its own parser takes it (the manual, 20.1.1, and `parse_int`, `parse_real`,
//! `parse_bool` in its guc.c). Where in doubt, a value passes: PostgreSQL looks again.

/// Values that PostgreSQL takes and does not list.
const UNLISTED: [(&str, &[&str]); 6] = [
    ("client_min_messages", &["debug", "info"]),
    ("log_min_messages", &["debug"]),
    ("log_min_error_statement", &["debug"]),
    ("wal_level", &["archive", "hot_standby"]),
    ("ssl_min_protocol_version", &[""]),
    ("ssl_max_protocol_version", &[""]),
];
/// In bytes.
const SIZES: [(&str, f64); 5] =
    [("B", 1.0), ("kB", 1024.0), ("MB", 1_048_576.0), ("GB", 1_073_741_824.0), ("TB", 1_099_511_627_776.0)];
/// In milliseconds.
const TIMES: [(&str, f64); 6] =
    [("us", 0.001), ("ms", 1.0), ("s", 1e3), ("min", 60e3), ("h", 3_600e3), ("d", 86_400e3)];
/// What a boolean may be; a beginning of one is enough where it is the beginning of no other.
const WORDS: [&str; 6] = ["on", "off", "true", "false", "yes", "no"];

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// On or off.
    Bool,
    /// One of these, with commas between them.
    Enum(&'static str),
    /// A number. `unit`: what one without a unit is in, or `-`; `whole`: no fractions.
    Number {
        /// No fractions.
        whole: bool,
        /// What a number without a unit is in; `-` where it is no size and no time.
        unit: &'static str,
        /// The least, and the most.
        range: (&'static str, &'static str),
    },
}

impl Kind {
    /// `bool`, `enum a,b` or `integer kB 64 2147483647`.
    pub fn parse(text: &'static str) -> Option<Self> {
        if text == "bool" {
            return Some(Self::Bool);
        }
        let (kind, rest) = text.split_once(' ')?;
        if kind == "enum" {
            return Some(Self::Enum(rest));
        }
        let mut words = rest.split(' ');
        let (unit, range) = (words.next()?, (words.next()?, words.next()?));
        Some(Self::Number { whole: kind == "integer", unit, range })
    }

    /// What is wrong with a value, after the setting's name.
    pub fn problem(self, name: &str, value: &str) -> Option<String> {
        let allowed = match self {
            Self::Bool => (!is_bool(value)).then(|| "on or off".to_owned()),
            Self::Enum(listed) => {
                let unlisted = UNLISTED.iter().find(|(of, _)| of.eq_ignore_ascii_case(name));
                let mut all =
                    listed.split(',').chain(unlisted.into_iter().flat_map(|(_, more)| more.iter().copied()));
                let like_bool = listed.split(',').any(|word| word == "on" || word == "off");
                let good = all.any(|word| word.eq_ignore_ascii_case(value)) || like_bool && is_bool(value);
                (!good).then(|| format!("one of {}", listed.replace(',', ", ")))
            }
            Self::Number { whole, unit, range } => {
                let (least, most) = (range.0.parse().ok()?, range.1.parse().ok()?);
                let good =
                    number(value, unit).map(|number| if whole { number.round_ties_even() } else { number });
                let good = good.is_some_and(|number: f64| (least..=most).contains(&number));
                (!good).then(|| words(whole, unit, range))
            }
        };
        allowed.map(|allowed| format!("is {value:?}: it must be {allowed}"))
    }
}

fn is_bool(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begun = WORDS.iter().filter(|word| !value.is_empty() && word.starts_with(&value)).count();
    value == "0" || value == "1" || begun == 1
}

/// In the setting's own unit.
fn number(value: &str, unit: &str) -> Option<f64> {
    let value = value.trim();
    let (number, behind) = split(value)?;
    if behind.is_empty() {
        return Some(number);
    }
    let own = if unit == "8kB" { Some(8192.0) } else { factor(&SIZES, unit) };
    let (table, own) = match own {
        Some(own) => (SIZES.as_slice(), own),
        None => (TIMES.as_slice(), factor(&TIMES, unit)?),
    };
    Some(number * factor(table, behind)? / own)
}

fn factor(table: &[(&str, f64)], unit: &str) -> Option<f64> {
    table.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// The number at the beginning, and what follows it.
fn split(value: &str) -> Option<(f64, &str)> {
    let unsigned = value.trim_start_matches(['+', '-']);
    if let Some(hex) = unsigned.strip_prefix("0x").or_else(|| unsigned.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let number = u32::from_str_radix(&hex[..end], 16).ok()?;
        let sign = if value.starts_with('-') { -1.0 } else { 1.0 };
        return Some((sign * f64::from(number), hex[end..].trim_start()));
    }
    let digits = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (digits, behind) = unsigned.split_at(digits);
    // As in C, `0600` is octal.
    if digits.len() > 1 && digits.starts_with('0') && !behind.starts_with(['.', 'e', 'E']) {
        return Some((f64::from(u32::from_str_radix(digits, 8).ok()?), behind.trim_start()));
    }
    // The longest beginning that is one: `1e3`, but of `1min` only `1`.
    let ends = (1..=value.len()).rev().filter(|end| value.is_char_boundary(*end));
    let is_number = |text: &str| text.ends_with(|c: char| c.is_ascii_digit() || c == '.');
    let found =
        ends.filter(|end| is_number(&value[..*end])).find_map(|end| Some((value[..end].parse().ok()?, end)));
    found.map(|(number, end): (f64, usize)| (number, value[end..].trim_start()))
}

fn words(whole: bool, unit: &str, range: (&str, &str)) -> String {
    let (least, most) = range;
    let what = if whole { "a whole number" } else { "a number" };
    let to =
        if most.contains('e') { format!(", {least} or more") } else { format!(" from {least} to {most}") };
    let units = |table: &[(&str, f64)]| table.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    match unit {
        "-" => format!("{what}{to}"),
        "8kB" => format!("{what} of pages of 8 kB{to}, or one with its unit ({})", units(&SIZES)),
        unit if factor(&SIZES, unit).is_some() => {
            format!("{what} of {unit}{to}, or one with its unit ({})", units(&SIZES))
        }
        unit => format!("{what} of {unit}{to}, or one with its unit ({})", units(&TIMES)),
    }
}

#[cfg(test)]
mod tests {
    use crate::api::parameters::value_problem;

    #[test]
    fn what_postgresql_takes_passes() {
        for (name, values) in [
            ("jit", &["on", "OFF", "of", "t", "fal", "yes", "n", "1", "0"][..]),
            ("wal_level", &["logical", "Replica", "hot_standby"]),
            ("synchronous_commit", &["remote_apply", "on", "true", "0"]),
            ("default_transaction_isolation", &["read committed", "SERIALIZABLE"]),
            ("max_connections", &["100", " 200 ", "0x64", "1e2", "99.6"]),
            ("work_mem", &["64", "4MB", "4 MB", "1.5GB", "65536B", "1TB"]),
            ("shared_buffers", &["16", "128kB", "8GB"]),
            ("statement_timeout", &["0", "30s", "5min", "1.5h", "1d"]),
            ("autovacuum_vacuum_cost_delay", &["-1", "2ms", "0.5"]),
            ("random_page_cost", &["1.1", "4"]),
            ("log_file_mode", &["0600", "384", "0x180"]),
            ("log_connections", &["on", "receipt,authentication"]),
            ("pg_stat_statements.max", &["anything"]),
            ("application_name", &["anything"]),
        ] {
            for value in values {
                assert_eq!(value_problem(name, value), None, "{name} = {value:?}");
            }
        }
    }

    #[test]
    fn what_it_does_not_take_is_refused_with_what_may_be() {
        let cases = [
            ("Max_Connections", "abc", r#"is "abc": it must be a whole number from 1 to 262143"#),
            ("max_connections", "0", r#"is "0": it must be a whole number from 1 to 262143"#),
            ("max_connections", "100MB", r#"is "100MB": it must be a whole number from 1 to 262143"#),
            (
                "work_mem",
                "64XB",
                r#"is "64XB": it must be a whole number of kB from 64 to 2147483647, or one with its unit (B, kB, MB, GB, TB)"#,
            ),
            (
                "work_mem",
                "32kB",
                r#"is "32kB": it must be a whole number of kB from 64 to 2147483647, or one with its unit (B, kB, MB, GB, TB)"#,
            ),
            (
                "shared_buffers",
                "8gb",
                r#"is "8gb": it must be a whole number of pages of 8 kB from 16 to 1073741823, or one with its unit (B, kB, MB, GB, TB)"#,
            ),
            (
                "statement_timeout",
                "",
                r#"is "": it must be a whole number of ms from 0 to 2147483647, or one with its unit (us, ms, s, min, h, d)"#,
            ),
            ("log_file_mode", "0800", r#"is "0800": it must be a whole number from 0 to 511"#),
            ("random_page_cost", "nan", r#"is "nan": it must be a number, 0 or more"#),
            ("jit", "o", r#"is "o": it must be on or off"#),
            ("huge_pages", "maybe", r#"is "maybe": it must be one of off, on, try"#),
        ];
        for (name, value, expected) in cases {
            assert_eq!(value_problem(name, value).as_deref(), Some(expected), "{name} = {value:?}");
        }
    }
}

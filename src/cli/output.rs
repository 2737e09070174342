//! How things are written: ages, sizes, documents, words for a shell.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::error::{CliError, Result};

/// A format that programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// Writes an object as a document, without the bookkeeping of field managers.
///
/// # Errors
/// Where it cannot be written as one.
pub fn document(format: Document, object: &impl Serialize) -> Result<String> {
    let mut value =
        serde_json::to_value(object).map_err(|error| CliError::failed(format!("write JSON: {error}")))?;
    drop_managed_fields(&mut value);
    match format {
        Document::Yaml => {
            serde_yaml::to_string(&value).map_err(|error| CliError::failed(format!("write YAML: {error}")))
        }
        Document::Json => serde_json::to_string_pretty(&value)
            .map(|text| text + "\n")
            .map_err(|error| CliError::failed(format!("write JSON: {error}"))),
    }
}

fn drop_managed_fields(value: &mut Value) {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(drop_managed_fields);
    }
}

/// An age as kubectl prints it: two units at most, the larger one alone where the smaller one says little.
pub fn age(since: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => pair(days / 365, "y", days % 365, "d"),
    }
}

/// An amount of bytes for people.
pub fn bytes(amount: i64) -> String {
    bytesize::ByteSize::b(u64::try_from(amount).unwrap_or(0)).display().iec().to_string()
}

/// An instant for people, in UTC.
pub fn instant(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A short time for people: `0.8 s`, `21 s`, `3m20s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        // Whole seconds: what is beside the point after minutes is cut off.
        humantime::format_duration(std::time::Duration::from_secs(seconds as u64))
            .to_string()
            .replace(' ', "")
    }
}

/// A word as a POSIX shell takes it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A text in lines of at most that width, where its words allow it; those after the first begin with an indent.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.trim().is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(format!("{indent}{word}"));
        }
    }
    lines.join("\n")
}

/// A text in lines of at most that width, whatever its words: one that is longer is cut.
pub fn folded(text: &str, width: usize) -> String {
    let cut = |word: &str| {
        let letters: Vec<char> = word.chars().collect();
        letters.chunks(width.max(1)).map(|piece| piece.iter().collect()).collect::<Vec<String>>()
    };
    let words: Vec<String> = text.split_whitespace().flat_map(cut).collect();
    wrapped(&words.join(" "), width, "")
}

/// `1 member`, `2 members`.
pub fn count(number: impl Into<i64>, noun: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A text in the place of an empty one.
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_are_kubectls() {
        let at = |seconds| jiff::Timestamp::from_second(seconds).unwrap();
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (2 * 86_400, "2d"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
        ] {
            assert_eq!(age(at(1000), at(1000 + seconds)), text);
        }
        assert_eq!(age(at(1000), at(900)), "0s", "a clock that is ahead");
    }

    #[test]
    fn short_times_are_as_exact_as_they_matter() {
        for (amount, text) in
            [(0.84, "0.8 s"), (2.0, "2.0 s"), (20.6, "21 s"), (200.9, "3m20s"), (3600.0, "1h")]
        {
            assert_eq!(seconds(amount), text);
        }
    }

    #[test]
    fn words_survive_a_shell() {
        for (word, quoted) in
            [("a-b", "a-b"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("$HOME", "'$HOME'")]
        {
            assert_eq!(shell_word(word), quoted);
        }
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("aa bb cc", 5, "  "), "aa bb\n  cc");
        assert_eq!(wrapped("aaaaaaaa b", 5, " "), "aaaaaaaa\n b");
        assert_eq!(wrapped("", 5, " "), "");
    }

    #[test]
    fn documents_leave_the_bookkeeping_out() {
        let list = json!({ "items": [{ "metadata": { "name": "a", "managedFields": [1] } }] });
        assert_eq!(
            document(Document::Json, &list).unwrap(),
            "{\n  \"items\": [\n    {\n      \"metadata\": {\n        \"name\": \"a\"\n      }\n    }\n  ]\n}\n"
        );
    }
}

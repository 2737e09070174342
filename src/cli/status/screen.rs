//! A page in the place of the one before it, on a terminal.

use std::iter::Peekable;
use std::str::Chars;

/// Where nobody knows how large the terminal is, nothing is broken or left out.
const ENDLESS: (usize, usize) = (usize::MAX, usize::MAX);

/// What draws a page over the one before: from the top left, each row cleared before it is written, then all below cleared. A page
/// that is taller than the terminal would move all of it up; what has no room is counted in the last row.
pub fn redrawn(page: &str, size: Option<(usize, usize)>) -> String {
    let (columns, rows) = size.unwrap_or(ENDLESS);
    // The cursor stays below.
    let room = rows.saturating_sub(1).max(1);
    let mut lines: Vec<String> = page.lines().flat_map(|line| broken(line, columns)).collect();
    if lines.len() > room {
        let left = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(format!("({left} more lines)").chars().take(columns).collect());
    }
    let rows: String = lines.iter().map(|line| format!("\x1b[K{line}\n")).collect();
    format!("\x1b[H{rows}\x1b[J")
}

/// A line as rows of the terminal, broken between words where that can be.
fn broken(line: &str, columns: usize) -> Vec<String> {
    let mut rows = vec![String::new()];
    let mut width = 0;
    for word in line.split_inclusive(' ') {
        let own = shown(word.trim_end()).count();
        if width > 0 && width + own > columns {
            rows.push(String::new());
            width = 0;
        }
        for part in parts(word) {
            let Some(row) = rows.last_mut() else { continue };
            match part {
                Part::Colour(text) => row.push_str(&text),
                Part::Shown(letter) if width < columns => {
                    row.push(letter);
                    width += 1;
                }
                // A blank at the end of a row needs no room.
                Part::Shown(' ') => {}
                Part::Shown(letter) => {
                    rows.push(letter.to_string());
                    width = 1;
                }
            }
        }
    }
    rows
}

/// What a line consists of.
enum Part {
    /// A sequence that shows nothing.
    Colour(String),
    /// A letter.
    Shown(char),
}

struct Parts<'a>(Peekable<Chars<'a>>);

fn parts(text: &str) -> Parts<'_> {
    Parts(text.chars().peekable())
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let first = self.0.next()?;
        if first != '\x1b' {
            return Some(Part::Shown(first));
        }
        let mut sequence = String::from(first);
        for letter in self.0.by_ref() {
            sequence.push(letter);
            if letter.is_ascii_alphabetic() {
                break;
            }
        }
        Some(Part::Colour(sequence))
    }
}

/// The letters that are seen.
fn shown(text: &str) -> impl Iterator<Item = char> {
    parts(text).filter_map(|part| match part {
        Part::Shown(letter) => Some(letter),
        Part::Colour(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(page: &str, size: (usize, usize)) -> Vec<String> {
        let text = redrawn(page, Some(size));
        let text = text.strip_prefix("\x1b[H").unwrap().strip_suffix("\x1b[J").unwrap();
        text.lines().map(|row| row.strip_prefix("\x1b[K").unwrap().to_owned()).collect()
    }

    #[test]
    fn a_page_fits_its_terminal() {
        for (page, size, expected) in [
            ("a\n\nb\n", (10, 10), &["a", "", "b"][..]),
            ("a\nb\nc\n", (10, 4), &["a", "b", "c"]),
            ("a\nb\nc\nd\n", (20, 4), &["a", "b", "(2 more lines)"]),
            ("a\nb\n", (4, 2), &["(2 m"]),
            ("one two three\n", (8, 10), &["one two ", "three"]),
            ("one two three\n", (7, 10), &["one two", "three"]),
            ("123456789 1\n", (4, 10), &["1234", "5678", "9 1"]),
            ("one 123456789\n", (4, 10), &["one ", "1234", "5678", "9"]),
            ("\x1b[31mone\x1b[0m two\n", (7, 10), &["\x1b[31mone\x1b[0m two"]),
            ("\x1b[31mone two\x1b[0m\n", (4, 10), &["\x1b[31mone ", "two\x1b[0m"]),
        ] {
            assert_eq!(rows(page, size), expected, "{page:?} in {size:?}");
        }
    }

    #[test]
    fn nothing_is_left_out_where_no_size_is_known() {
        let page = "x ".repeat(1000) + &"\ny".repeat(1000);
        let text = redrawn(&page, None);
        assert_eq!(text.matches('x').count() + text.matches('y').count(), 2000);
        assert_eq!(text.matches('\n').count(), 1001);
    }
}

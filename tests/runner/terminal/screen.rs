//! What a terminal shows: enough of one for what dbctl writes. What it does not know is remembered, and fails a test.

/// A screen of rows and columns.
#[derive(Debug)]
pub struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// The last column was written to; the next letter goes to the next row.
    full: bool,
    /// How often everything moved up by a row.
    pub scrolled: usize,
    /// How many letters went to a next row since there was no room for them in theirs.
    pub wrapped: usize,
    /// How often the cursor went to the top left.
    pub homes: usize,
    /// Whether the cursor is seen.
    pub cursor: bool,
    /// What it does not know.
    pub unknown: Vec<String>,
    /// A sequence that has begun.
    begun: String,
}

impl Screen {
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            cells: vec![vec![' '; columns]; rows],
            row: 0,
            column: 0,
            full: false,
            scrolled: 0,
            wrapped: 0,
            homes: 0,
            cursor: true,
            unknown: Vec::new(),
            begun: String::new(),
        }
    }

    /// Empty, and of another size.
    pub fn resize(&mut self, rows: usize, columns: usize) {
        let cursor = self.cursor;
        let unknown = std::mem::take(&mut self.unknown);
        *self = Self { cursor, unknown, ..Self::new(rows, columns) };
    }

    /// The rows, without the blanks at their ends.
    pub fn rows(&self) -> Vec<String> {
        self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    /// All of it, without the empty rows at its end.
    pub fn text(&self) -> String {
        self.rows().join("\n").trim_end().to_owned()
    }

    pub fn write(&mut self, text: &str) {
        text.chars().for_each(|letter| self.letter(letter));
    }

    fn letter(&mut self, letter: char) {
        if !self.begun.is_empty() {
            self.begun.push(letter);
            let begins = self.begun == "\x1b[";
            if !begins && (letter.is_ascii_alphabetic() || self.begun.len() == 2) {
                let sequence = std::mem::take(&mut self.begun);
                self.sequence(&sequence);
            }
            return;
        }
        match letter {
            '\x1b' => self.begun.push(letter),
            '\r' => self.to(self.row, 0),
            '\n' => self.down(),
            '\x08' => self.to(self.row, self.column.saturating_sub(1)),
            '\x07' => {}
            letter if letter.is_control() => self.unknown.push(format!("{letter:?}")),
            letter => self.show(letter),
        }
    }

    fn to(&mut self, row: usize, column: usize) {
        (self.row, self.column, self.full) = (row, column, false);
    }

    fn down(&mut self) {
        self.full = false;
        if self.row + 1 < self.cells.len() {
            self.row += 1;
            return;
        }
        let columns = self.cells[0].len();
        self.cells.remove(0);
        self.cells.push(vec![' '; columns]);
        self.scrolled += 1;
    }

    fn show(&mut self, letter: char) {
        let columns = self.cells[0].len();
        if self.full {
            self.down();
            self.column = 0;
            self.wrapped += 1;
        }
        self.cells[self.row][self.column] = letter;
        self.full = self.column + 1 == columns;
        self.column = (self.column + 1).min(columns - 1);
    }

    fn sequence(&mut self, sequence: &str) {
        let inner = sequence.strip_prefix("\x1b[").unwrap_or_default();
        let (numbers, last) = inner.split_at(inner.len().saturating_sub(1));
        let number = |least: usize| numbers.parse::<usize>().unwrap_or(least);
        match (numbers, last) {
            (_, "m") => {}
            ("?25", "l") => self.cursor = false,
            ("?25", "h") => self.cursor = true,
            ("", "H") => {
                self.homes += 1;
                self.to(0, 0);
            }
            // As real ones do: with the last column written to, that is where the cursor still is.
            ("" | "0", "K") => {
                let column = self.column;
                self.cells[self.row][column..].fill(' ');
            }
            ("2", "K") => self.cells[self.row].fill(' '),
            ("" | "0", "J") => {
                let (row, column) = (self.row, self.column);
                self.cells[row][column..].fill(' ');
                self.cells[row + 1..].iter_mut().for_each(|row| row.fill(' '));
            }
            (_, "A") => self.to(self.row.saturating_sub(number(1)), self.column),
            (_, "B") => self.to((self.row + number(1)).min(self.cells.len() - 1), self.column),
            (_, "C") => self.to(self.row, (self.column + number(1)).min(self.cells[0].len() - 1)),
            (_, "D") => self.to(self.row, self.column.saturating_sub(number(1))),
            (_, "G") => self.to(self.row, number(1).saturating_sub(1)),
            _ => self.unknown.push(format!("{sequence:?}")),
        }
    }
}

#[test]
fn a_screen_shows_what_a_terminal_would() {
    let shown = |text: &str| {
        let mut screen = Screen::new(3, 4);
        screen.write(text);
        (screen.text(), screen.scrolled, screen.wrapped)
    };
    assert_eq!(shown("ab\r\ncd"), ("ab\ncd".to_owned(), 0, 0));
    assert_eq!(shown("abcde"), ("abcd\ne".to_owned(), 0, 1));
    assert_eq!(shown("abcd\r\ne"), ("abcd\ne".to_owned(), 0, 0));
    assert_eq!(shown("a\r\nb\r\nc\r\nd"), ("b\nc\nd".to_owned(), 1, 0));
    assert_eq!(shown("abc\x1b[Hx\x1b[K"), ("x".to_owned(), 0, 0));
    assert_eq!(shown("abcd\x1b[K"), ("abc".to_owned(), 0, 0));
    assert_eq!(shown("a\r\nb\x1b[H\x1b[31mc\x1b[0m\x1b[J"), ("c".to_owned(), 0, 0));
    let mut screen = Screen::new(3, 4);
    screen.write("\x1b[?25l\x1b[5Z");
    assert!(!screen.cursor && screen.unknown.len() == 1, "{screen:?}");
}

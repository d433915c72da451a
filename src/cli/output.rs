//! Text for people: sizes, counts, times, tables, printable names; and the way to stdout.
//!
//! Data goes to stdout, everything else to stderr ([`note`]). What comes from a store or a file
//! system is never sent to a terminal raw: [`printable`] and [`Names`] escape control characters.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::clock::UnixNanos;
use crate::values::Time;

/// Stdout, buffered in large pieces. What was not flushed is dropped with it, so that a command
/// that fails does not leave the beginning of a short document behind.
#[derive(Debug)]
pub struct Stdout {
    /// Always there until the drop.
    out: Option<BufWriter<File>>,
}

/// Opens stdout; the caller flushes.
///
/// # Errors
/// The system refuses another descriptor.
pub fn stdout() -> io::Result<Stdout> {
    let owned = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(Stdout { out: Some(BufWriter::with_capacity(64 << 10, File::from(owned))) })
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.as_mut().map_or(Ok(0), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            drop(out.into_parts());
        }
    }
}

/// Writes one line to stderr, whatever becomes of it.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Returns `text` without control characters: they become `\xNN`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "\\x{byte:02x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// How names are written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The exact bytes, for other programs.
    Raw,
    /// What cannot be printed as `\xNN`, for terminals.
    Escaped,
}

impl Names {
    /// Chooses by what stdout is.
    pub fn for_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Escaped } else { Self::Raw }
    }

    /// Writes one name.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write(self, out: &mut dyn Write, name: &[u8]) -> io::Result<()> {
        match self {
            Self::Raw => out.write_all(name),
            Self::Escaped => out.write_all(escaped(name).as_bytes()),
        }
    }
}

/// Returns bytes as text: what is no printable text as `\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        out.push_str(&printable(part.valid()));
        for byte in part.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Returns a word as a shell takes it.
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
    }
}

/// Returns a number of bytes in binary units, with one decimal.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be rounded to 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns a number with a comma between groups of three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns a number with the word for what is counted, such as `1 file` and `2 files`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Returns a span of time.
pub fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        let decimals = if seconds < 1.0 { 2 } else { 1 };
        return format!("{seconds:.decimals$} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    if hours > 0 {
        format!("{hours} h {minutes:02} min")
    } else {
        format!("{minutes} min {:02} s", whole % 60)
    }
}

/// Returns a time as RFC 3339 in UTC, exactly; `@seconds.nanoseconds` for times beyond the years
/// that RFC 3339 has.
pub fn time(time: Time) -> String {
    match jiff::Timestamp::new(time.secs, time.nanos.cast_signed()) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => format!("@{}.{:09}", time.secs, time.nanos),
    }
}

/// Returns a time as [`time`] does, to the second.
pub fn time_to_the_second(instant: Time) -> String {
    time(Time { nanos: 0, ..instant })
}

/// Splits the clock's time into seconds and nanoseconds.
pub fn clock_time(time: UnixNanos) -> Time {
    const SECOND: i64 = 1_000_000_000;
    // A remainder below 10^9 fits.
    let nanos = time.0.rem_euclid(SECOND) as u32;
    Time { secs: time.0.div_euclid(SECOND), nanos }
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table with aligned columns, for lists of bounded length.
#[derive(Debug)]
pub struct Table<const N: usize> {
    align: [Align; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Makes a table with a head; a head without any text is left out.
    pub fn new(columns: [(&str, Align); N]) -> Self {
        let head = columns.map(|(name, _)| name.to_owned());
        let rows = if head.iter().all(String::is_empty) { Vec::new() } else { vec![head] };
        Self { align: columns.map(|(_, align)| align), rows }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell).into_owned()));
    }

    /// Writes the table.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(self.align).zip(widths) {
                let _ = match align {
                    Align::Left => write!(line, "{cell:<width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_and_never_1024_of_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (13_002_342, "12.4 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn counts_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1204, "1,204"), (1_000_000, "1,000,000")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(0, "file", "files"), "0 files");
    }

    #[test]
    fn spans_read_well() {
        let cases =
            [(0.066, "0.07 s"), (1.26, "1.3 s"), (125.0, "2 min 05 s"), (3720.0, "1 h 02 min")];
        for (span, text) in cases {
            assert_eq!(seconds(span), text);
        }
    }

    #[test]
    fn times_are_rfc_3339_as_long_as_there_are_such_years() {
        let at = clock_time(UnixNanos(1_767_323_045_000_000_001));
        assert_eq!(time(at), "2026-01-02T03:04:05.000000001Z");
        assert_eq!(time_to_the_second(at), "2026-01-02T03:04:05Z");
        assert_eq!(time(clock_time(UnixNanos(-1))), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time(Time { secs: i64::MAX, nanos: 5 }), "@9223372036854775807.000000005");
    }

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
        assert_eq!(escaped(b"caf\xc3\xa9 \xff\t"), "café \\xff\\x09");
        let mut out = Vec::new();
        Names::Raw.write(&mut out, b"\xff\x1b").unwrap();
        assert_eq!(out, b"\xff\x1b");
    }

    #[test]
    fn words_for_a_shell_are_quoted_where_they_must() {
        assert_eq!(shell_word("/backup/store-1"), "/backup/store-1");
        assert_eq!(shell_word("it's here"), r"'it'\''s here'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn tables_align_and_end_lines_without_spaces() {
        let mut table = Table::new([("NAME", Align::Left), ("BYTES", Align::Right)]);
        table.row(["orders".into(), "1".into()]);
        table.row(["a".into(), "1,204".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME    BYTES\norders      1\na       1,204\n"
        );
    }
}

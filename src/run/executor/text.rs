//! Text that external commands bring, made fit to be shown or kept: all of it is untrusted.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Longest identity that a service may give, in bytes.
pub const ID_BYTES_MAX: usize = 256;
/// Lines of a command's last words in an error.
const WORDS_LINES_MAX: usize = 12;
/// Characters of one such line, and of one argument of a command that is shown.
const SHOWN_CHARS_MAX: usize = 240;

/// Returns `bytes` as one line of text: what is not UTF-8 is replaced, what moves the cursor, starts
/// a line or turns the direction of writing is escaped.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() || turns_direction(character) {
            text.extend(character.escape_unicode());
        } else {
            text.push(character);
        }
    }
    text
}

/// Line and paragraph separators and bidirectional controls: they are not "control" to Unicode.
fn turns_direction(character: char) -> bool {
    let code = u32::from(character);
    matches!(code, 0x061c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069)
}

/// Returns the first characters of printable text, with an ellipsis if there are more.
#[must_use]
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the last lines that a command wrote, printable and on one line.
#[must_use]
pub fn last_words(stderr: &[u8]) -> String {
    // Progress bars end their lines with a carriage return.
    let lines = stderr.split(|byte| matches!(byte, b'\n' | b'\r'));
    let lines = lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let mut last: Vec<_> = lines.rev().take(WORDS_LINES_MAX).collect();
    last.reverse();
    let last: Vec<_> = last.into_iter().map(|line| shortened(&printable(line))).collect();
    last.join(" | ")
}

/// Returns a command for people, with quotes around what a shell would take apart.
#[must_use]
pub fn shown_command<'a>(words: impl Iterator<Item = &'a OsStr>) -> String {
    let words = words.map(|word| {
        let text = shortened(&printable(word.as_bytes()));
        let plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,…".contains(c);
        if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{text}'") }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Checks an identity that a service has given: it becomes an argument of later commands and part
/// of receipts.
///
/// # Errors
/// What is wrong with it, if it is empty, longer than [`ID_BYTES_MAX`], begins with `-`, is `.` or
/// `..`, or holds anything but printable ASCII without spaces and `/`.
pub fn checked_id(what: &str, id: &str) -> Result<String, String> {
    let fault = if id.is_empty() {
        "it is empty"
    } else if id.len() > ID_BYTES_MAX {
        "it is too long"
    } else if id.starts_with('-') {
        "it begins with '-'"
    } else if id == "." || id == ".." {
        "it names a directory"
    } else if id.contains('/') || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        "only printable ASCII without spaces and '/' is taken"
    } else {
        return Ok(id.to_owned());
    };
    Err(format!("{what} '{}': {fault}", shortened(&printable(id.as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_is_escaped() {
        assert_eq!(printable(b"plain \xc3\xa4 text"), "plain ä text");
        assert_eq!(printable(b"\x1b[31m\n\x00"), "\\u{1b}[31m\\u{a}\\u{0}");
        assert_eq!(printable("a\u{202e}b\u{2028}".as_bytes()), "a\\u{202e}b\\u{2028}");
        assert_eq!(printable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn last_words_are_few_and_short() {
        assert_eq!(last_words(b"10%\r20%\r\nError: x\n\n"), "10% | 20% | Error: x");
        let many: Vec<_> = (0..100).map(|n| n.to_string()).collect();
        let words = last_words(many.join("\n").as_bytes());
        assert!(words.starts_with("88 | ") && words.ends_with(" | 99"), "{words}");
        let long = last_words(&vec![b'x'; 10_000]);
        assert_eq!(long.chars().count(), SHOWN_CHARS_MAX + 1);
        assert_eq!(last_words(b""), "");
    }

    #[test]
    fn commands_are_shown_as_a_person_would_type_them() {
        let words = ["sh", "-c", "echo \x07hi", ""].map(OsStr::new);
        assert_eq!(shown_command(words.into_iter()), "sh -c 'echo \\u{7}hi' ''");
    }

    #[test]
    fn identities_are_names_and_nothing_else() {
        let good = ["0000000000000001ffff", "a", "db@2026-01-01T00:00:00Z", "é-not", "x.y"];
        let taken: Vec<_> = good.iter().filter(|id| checked_id("id", id).is_ok()).collect();
        assert_eq!(taken.len(), 4, "{taken:?}");
        let long = "x".repeat(ID_BYTES_MAX + 1);
        for bad in ["", "-rf", "--output", ".", "..", "a/b", "a b", "a\nb", "a\0b", &long] {
            let error = checked_id("snapshot", bad).unwrap_err();
            assert!(error.starts_with("snapshot '") && error.len() < 400, "{error}");
        }
        assert!(checked_id("id", &long[1..]).is_ok());
    }
}

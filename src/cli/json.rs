//! JSON on stdout: one object, written as it arises, so that arrays of any length take no memory.
//!
//! The first field is always `schema`. Elements of arrays stand on lines of their own. A document
//! whose writer failed midway is left without its end, so that nobody takes it for whole.

use std::io::{self, Write};

use serde::Serialize;

use crate::digest::hex;

/// An object being written.
#[must_use = "an object is closed by `end` or `finish`"]
pub struct Object<'w> {
    out: &'w mut dyn Write,
    empty: bool,
}

/// An array being written.
#[must_use = "an array is closed by `end`"]
pub struct Array<'w> {
    out: &'w mut dyn Write,
    empty: bool,
}

impl<'w> Object<'w> {
    /// Begins the document of the command `verb`.
    ///
    /// # Errors
    /// `out` fails.
    pub fn document(out: &'w mut dyn Write, verb: &str) -> io::Result<Self> {
        let mut object = Self::begin(out)?;
        object.field("schema", &format!("strongroom.{verb}/1"))?;
        Ok(object)
    }

    fn begin(out: &'w mut dyn Write) -> io::Result<Self> {
        out.write_all(b"{")?;
        Ok(Self { out, empty: true })
    }

    fn name(&mut self, name: &str) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *self.out, name)?;
        self.out.write_all(b":")
    }

    /// Writes one field.
    ///
    /// # Errors
    /// `out` fails.
    pub fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> io::Result<()> {
        self.name(name)?;
        Ok(serde_json::to_writer(&mut *self.out, value)?)
    }

    /// Writes all fields of a struct, in their order.
    ///
    /// # Errors
    /// `out` fails.
    pub fn fields<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        let inner = inner.expect("a struct is an object");
        if !inner.is_empty() {
            if !std::mem::take(&mut self.empty) {
                self.out.write_all(b",")?;
            }
            self.out.write_all(inner.as_bytes())?;
        }
        Ok(())
    }

    /// Begins a field that is an array.
    ///
    /// # Errors
    /// `out` fails.
    pub fn array(&mut self, name: &str) -> io::Result<Array<'_>> {
        self.name(name)?;
        self.out.write_all(b"[")?;
        Ok(Array { out: &mut *self.out, empty: true })
    }

    /// Ends an object inside another value.
    ///
    /// # Errors
    /// `out` fails.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(b"}")
    }

    /// Ends the document.
    ///
    /// # Errors
    /// `out` fails.
    pub fn finish(self) -> io::Result<()> {
        self.out.write_all(b"}\n")?;
        self.out.flush()
    }
}

impl Array<'_> {
    fn next(&mut self) -> io::Result<()> {
        let separator: &[u8] = if std::mem::take(&mut self.empty) { b"\n" } else { b",\n" };
        self.out.write_all(separator)
    }

    /// Writes one element.
    ///
    /// # Errors
    /// `out` fails.
    pub fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        self.next()?;
        Ok(serde_json::to_writer(&mut *self.out, value)?)
    }

    /// Begins an element that is an object.
    ///
    /// # Errors
    /// `out` fails.
    pub fn object(&mut self) -> io::Result<Object<'_>> {
        self.next()?;
        Object::begin(&mut *self.out)
    }

    /// Ends the array.
    ///
    /// # Errors
    /// `out` fails.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(b"]")
    }
}

/// Writes a document whose fields are those of `report`.
///
/// # Errors
/// `out` fails.
pub fn print<T: Serialize>(out: &mut dyn Write, verb: &str, report: &T) -> io::Result<()> {
    let mut object = Object::document(out, verb)?;
    object.fields(report)?;
    object.finish()
}

/// Bytes that are usually text: the text, and the exact bytes as hexadecimal digits where the text
/// is not exact.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// The text, with U+FFFD for what is not UTF-8.
    pub text: String,
    /// The bytes, if the text does not tell them.
    pub exact: Option<String>,
}

impl Text {
    /// Makes the text of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { text: text.to_owned(), exact: None },
            Err(_) => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                Self { text, exact: Some(hex(bytes)) }
            }
        }
    }
}

/// The fields `path` and, where it is not UTF-8, `path_bytes`.
#[derive(Debug, Serialize)]
pub struct PathFields {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
}

impl PathFields {
    /// Makes the fields for a path.
    pub fn of(path: &[u8]) -> Self {
        let Text { text, exact } = Text::of(path);
        Self { path: text, path_bytes: exact }
    }
}

/// The field `checksum` of a member.
#[derive(Debug, Serialize)]
pub struct Checksum {
    /// `blake3` or `sha256`.
    pub algorithm: &'static str,
    /// 64 hexadecimal digits.
    pub value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Entry {
        #[serde(flatten)]
        path: PathFields,
        bytes: u64,
    }

    #[test]
    fn documents_begin_with_their_schema_and_nest() {
        let mut out = Vec::new();
        let mut object = Object::document(&mut out, "ls").unwrap();
        object.field("deployment", "orders").unwrap();
        let mut entries = object.array("entries").unwrap();
        entries.push(&Entry { path: PathFields::of(b"a\"b"), bytes: 1 }).unwrap();
        let mut member = entries.object().unwrap();
        member.fields(&Entry { path: PathFields::of(b"\xff"), bytes: 2 }).unwrap();
        let files = member.array("files").unwrap();
        files.end().unwrap();
        member.end().unwrap();
        entries.end().unwrap();
        object.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = concat!(
            r#"{"schema":"strongroom.ls/1","deployment":"orders","entries":["#,
            "\n",
            r#"{"path":"a\"b","bytes":1},"#,
            "\n",
            r#"{"path":"�","path_bytes":"ff","bytes":2,"files":[]}]}"#,
            "\n",
        );
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}

//! Entries of a generation as commands show them: JSON fields, long lines, hard links with the
//! facts of the file that they name.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::cli::json::{PathFields, Text};
use crate::cli::output::{self, Names};
use crate::digest::{Checksums, hex};
use crate::store::{Content, Entry, Error, Member, Node, Store};
use crate::values::{Chunking, Kind};

/// Returns `member/path`.
pub fn full_path(member: &str, path: &[u8]) -> Vec<u8> {
    let mut full = member.as_bytes().to_vec();
    if !path.is_empty() {
        full.push(b'/');
        full.extend_from_slice(path);
    }
    full
}

/// What is known of a regular file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its checksums.
    pub checksums: Checksums,
    /// How it was cut.
    pub chunking: Chunking,
}

impl From<&Content> for Facts {
    fn from(content: &Content) -> Self {
        Self { bytes: content.bytes, checksums: content.checksums, chunking: content.chunking }
    }
}

/// Looks up what hard links name, in one member.
pub struct Links<'s> {
    store: &'s Store,
    member: &'s Member,
    known: HashMap<Vec<u8>, Facts>,
}

impl<'s> Links<'s> {
    /// Files that are remembered; links to one file mostly stand together.
    const KNOWN_MAX: usize = 4096;

    /// Makes a look-up for `member`.
    pub fn new(store: &'s Store, member: &'s Member) -> Self {
        Self { store, member, known: HashMap::new() }
    }

    /// Returns the facts of an entry that is a regular file or another name of one.
    ///
    /// # Errors
    /// The file that a link names cannot be found.
    pub fn facts(&mut self, entry: &Entry) -> Result<Option<Facts>, Error> {
        match &entry.node {
            Node::File(content) => Ok(Some(content.into())),
            Node::Other(_) => Ok(None),
            Node::HardLink(target) => {
                if let Some(facts) = self.known.get(target) {
                    return Ok(Some(*facts));
                }
                let facts = Facts::from(&self.store.content(self.member, target)?);
                if self.known.len() >= Self::KNOWN_MAX {
                    self.known.clear();
                }
                self.known.insert(target.clone(), facts);
                Ok(Some(facts))
            }
        }
    }
}

/// The field `checksums` of a file.
#[derive(Debug, Serialize)]
pub struct ChecksumFields {
    blake3: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl From<&Checksums> for ChecksumFields {
    fn from(checksums: &Checksums) -> Self {
        let sha256 = checksums.sha256.map(|sha256| hex(&sha256));
        Self { blake3: checksums.blake3.to_hex(), sha256 }
    }
}

/// The field `chunking` of a file.
#[derive(Debug, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum ChunkingFields {
    /// One chunk.
    Whole,
    /// Pieces of one length.
    Fixed {
        /// Their length.
        chunk_bytes: u32,
    },
    /// Cut by content.
    Cdc {
        /// Least length.
        min_bytes: u32,
        /// Length aimed at.
        avg_bytes: u32,
        /// Greatest length.
        max_bytes: u32,
    },
}

impl From<Chunking> for ChunkingFields {
    fn from(chunking: Chunking) -> Self {
        match chunking {
            Chunking::Whole => Self::Whole,
            Chunking::Fixed { chunk_bytes } => Self::Fixed { chunk_bytes },
            Chunking::Cdc { min_bytes, avg_bytes, max_bytes } => {
                Self::Cdc { min_bytes, avg_bytes, max_bytes }
            }
        }
    }
}

/// A regular file with its checksums.
#[derive(Debug, Serialize)]
pub struct FileFields {
    #[serde(flatten)]
    path: PathFields,
    bytes: u64,
    checksums: ChecksumFields,
    chunking: ChunkingFields,
}

impl FileFields {
    /// Makes the fields of the file at `path`.
    pub fn of(path: &[u8], facts: &Facts) -> Self {
        Self {
            path: PathFields::of(path),
            bytes: facts.bytes,
            checksums: (&facts.checksums).into(),
            chunking: facts.chunking.into(),
        }
    }
}

/// An entry with its full path, ready to be shown.
pub struct Row<'e> {
    /// `member/path`.
    pub path: Vec<u8>,
    /// Its member.
    pub member: &'e str,
    /// The entry.
    pub entry: &'e Entry,
    /// Length of the content; 0 for what has none.
    pub bytes: u64,
}

/// A row as JSON.
#[derive(Debug, Serialize)]
pub struct RowFields {
    #[serde(flatten)]
    path: PathFields,
    r#type: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link_bytes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<[u32; 2]>,
    xattrs: Vec<String>,
}

impl Row<'_> {
    /// Returns the row as JSON.
    pub fn fields(&self) -> RowFields {
        let entry = self.entry;
        let mut fields = RowFields {
            path: PathFields::of(&self.path),
            r#type: type_of(&entry.node).0,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: output::time(entry.mtime),
            bytes: self.bytes,
            target: None,
            target_bytes: None,
            hard_link: None,
            hard_link_bytes: None,
            device: None,
            xattrs: entry.xattrs.iter().map(|xattr| output::escaped(&xattr.name)).collect(),
        };
        match &entry.node {
            Node::HardLink(first) => {
                let Text { text, exact } = Text::of(&full_path(self.member, first));
                (fields.hard_link, fields.hard_link_bytes) = (Some(text), exact);
            }
            Node::Other(Kind::Symlink { target }) => {
                let Text { text, exact } = Text::of(target);
                (fields.target, fields.target_bytes) = (Some(text), exact);
            }
            Node::Other(Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }) => {
                fields.device = Some([*major, *minor]);
            }
            Node::File(_) | Node::Other(_) => {}
        }
        fields
    }

    /// Writes the row as a line.
    ///
    /// # Errors
    /// `out` fails.
    pub fn write(&self, out: &mut dyn Write, names: Names, long: bool) -> io::Result<()> {
        if long {
            self.write_columns(out)?;
        }
        names.write(out, &self.path)?;
        match &self.entry.node {
            Node::Other(Kind::Symlink { target }) if long => {
                out.write_all(b" -> ")?;
                names.write(out, target)?;
            }
            Node::HardLink(first) if long => {
                out.write_all(b" = ")?;
                names.write(out, &full_path(self.member, first))?;
            }
            _ => {}
        }
        out.write_all(b"\n")
    }

    fn write_columns(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { entry, bytes, .. } = self;
        let size = match &entry.node {
            Node::File(_) | Node::HardLink(_) => output::bytes(*bytes),
            Node::Other(Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }) => {
                format!("{major}, {minor}")
            }
            Node::Other(_) => String::new(),
        };
        let (mode, (uid, gid)) = (mode_text(&entry.node, entry.mode), (entry.uid, entry.gid));
        let mtime = output::time_to_the_second(entry.mtime);
        write!(out, "{mode} {uid:>5} {gid:>5} {size:>10} {mtime} ")
    }
}

/// Returns a node's type in JSON, and the letter that `ls -l` has for it.
fn type_of(node: &Node) -> (&'static str, char) {
    match node {
        Node::File(_) | Node::HardLink(_) | Node::Other(Kind::File) => ("file", '-'),
        Node::Other(Kind::Dir) => ("dir", 'd'),
        Node::Other(Kind::Symlink { .. }) => ("symlink", 'l'),
        Node::Other(Kind::Fifo) => ("fifo", 'p'),
        Node::Other(Kind::Socket) => ("socket", 's'),
        Node::Other(Kind::CharDevice { .. }) => ("char_device", 'c'),
        Node::Other(Kind::BlockDevice { .. }) => ("block_device", 'b'),
    }
}

/// Returns type and permissions as `ls -l` writes them.
fn mode_text(node: &Node, mode: u32) -> String {
    let mut text = String::from(type_of(node).1);
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    for (shift, (bit, letter)) in [6, 3, 0].into_iter().zip(special) {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & bit != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{Time, Xattr};

    fn entry(node: Node, mode: u32) -> Entry {
        let time = Time { secs: 1_767_323_045, nanos: 0 };
        let xattrs = vec![Xattr { name: b"user.origin".to_vec(), value: Vec::new() }];
        Entry {
            path: b"etc/a".to_vec(),
            node,
            mode,
            uid: 0,
            gid: 1000,
            mtime: time,
            ctime: time,
            inode: 1,
            xattrs,
        }
    }

    fn row(entry: &Entry) -> Row<'_> {
        Row { path: full_path("api", &entry.path), member: "api", entry, bytes: 1536 }
    }

    #[test]
    fn permissions_read_as_those_of_ls() {
        let dir = Node::Other(Kind::Dir);
        for (mode, text) in [
            (0o755, "drwxr-xr-x"),
            (0o1777, "drwxrwxrwt"),
            (0o4711, "drws--x--x"),
            (0o2640, "drw-r-S---"),
            (0o1000, "d--------T"),
        ] {
            assert_eq!(mode_text(&dir, mode), text);
        }
    }

    #[test]
    fn long_lines_show_what_a_link_names() {
        let link = entry(Node::HardLink(b"etc/0".to_vec()), 0o644);
        let mut out = Vec::new();
        row(&link).write(&mut out, Names::Escaped, true).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "-rw-r--r--     0  1000    1.5 KiB 2026-01-02T03:04:05Z api/etc/a = api/etc/0\n"
        );
    }

    #[test]
    fn json_has_the_fields_of_the_kind() {
        let symlink = entry(Node::Other(Kind::Symlink { target: b"\xff".to_vec() }), 0o777);
        let json = serde_json::to_string(&row(&symlink).fields()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"path":"api/etc/a","type":"symlink","mode":511,"uid":0,"gid":1000,"#,
                r#""mtime":"2026-01-02T03:04:05Z","bytes":1536,"target":"�","#,
                r#""target_bytes":"ff","xattrs":["user.origin"]}"#
            )
        );
    }
}

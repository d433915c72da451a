//! `store-format.md` says what the code does: sizes, places, limits, dumps, names of sections.

use std::collections::BTreeSet;
use std::path::Path;

use strongroom::digest::Digest;
use strongroom::format::pack::{self, Content, NO_BASE};
use strongroom::format::{SEAL_NONE, frame, header, page, segment};
use strongroom::values::Encoding;
use strongroom::{backend, limits};

use super::golden::{self, STORE_ID, kept};
use super::hex;
use super::markdown::{self, Table, code};

const LAYOUT: &str = "offset | size | field | meaning | valid values";

/// Returns the layout table under a heading.
fn layout(heading: &str) -> Table {
    markdown::table(&markdown::text(), heading, LAYOUT)
}

/// Returns the bytes of a field, by the table.
fn field<'b>(table: &Table, name: &str, bytes: &'b [u8]) -> &'b [u8] {
    let row = table.rows.iter().find(|row| row[2] == name);
    let row = row.unwrap_or_else(|| panic!("{}: no field {name}", table.heading));
    let (at, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
    &bytes[at..at + size]
}

/// Returns the value of a numeric field, by the table.
fn value(table: &Table, name: &str, bytes: &[u8]) -> u64 {
    field(table, name, bytes).iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Returns the bytes that a magic cell shows.
fn magic(table: &Table) -> Vec<u8> {
    let row = table.rows.iter().find(|row| row[2] == "magic").unwrap();
    let shown = code(table.cell(row, "valid values")).unwrap();
    shown.replace("\\r", "\r").replace("\\n", "\n").into_bytes()
}

#[test]
fn every_layout_adds_up_to_the_size_in_the_code() {
    let mut sizes = vec![
        ("Pack head", pack::HEAD_BYTES),
        ("Pack directory entry", pack::ENTRY_BYTES),
        ("Pack tail", pack::TAIL_BYTES),
        ("Index segment head", segment::HEAD_BYTES),
        ("Index pack table entry", segment::PACK_ENTRY_BYTES),
        ("Index entry", segment::ENTRY_BYTES),
        ("Page head", page::HEAD_BYTES),
        ("Frame", frame::HEAD_BYTES),
    ];
    let tables = markdown::tables(&markdown::text());
    for table in tables.iter().filter(|table| table.columns.join(" | ") == LAYOUT) {
        let known = sizes.iter().position(|(heading, _)| *heading == table.heading);
        let known = known.unwrap_or_else(|| panic!("{} is not checked", table.heading));
        let (heading, expected) = sizes.swap_remove(known);
        let mut end = 0;
        for row in &table.rows {
            let Ok(size) = row[1].parse::<usize>() else { break };
            assert_eq!(row[0], end.to_string(), "{heading}: offset of {:?}", row[2]);
            end += size;
        }
        assert_eq!(end, expected, "{heading}");
    }
    assert!(sizes.is_empty(), "{sizes:?} have no table");
    let frame = layout("Frame");
    let behind: Vec<_> = frame.rows.iter().rev().take(2).map(|row| &row[..2]).collect();
    assert_eq!(behind, [["24 + n", "32"], ["24", "n"]]);
    assert_eq!(frame::OVERHEAD_BYTES, 24 + 32);
}

#[test]
fn magic_bytes_and_kinds_are_those_of_the_code() {
    assert_eq!(magic(&layout("Frame")), frame::MAGIC);
    assert_eq!(magic(&layout("Pack head")), pack::HEAD_MAGIC);
    assert_eq!(magic(&layout("Pack tail")), pack::TAIL_MAGIC);
    assert_eq!(magic(&layout("Index segment head")), segment::MAGIC);
    let kinds = markdown::table(&markdown::text(), "Frame", "kind | object | section");
    let actual = [
        frame::STORE,
        frame::ARTIFACT,
        frame::GENERATION,
        frame::COMMIT,
        frame::JOURNAL,
        frame::ENDED_JOURNAL,
        frame::REMOVAL,
    ];
    assert_eq!(kinds.rows.len(), actual.len());
    for (row, kind) in kinds.rows.iter().zip(actual) {
        assert_eq!(code(&row[0]).unwrap().as_bytes(), kind.tag);
        assert_eq!(kind.version, 1);
    }
    assert_eq!((pack::VERSION, segment::VERSION, SEAL_NONE), (1, 1, 0));
    assert_eq!((header::READ_VERSION, header::WRITE_VERSION), (1, 1));
    assert_eq!((header::READ_FEATURES_KNOWN, header::WRITE_FEATURES_KNOWN), (0, 0));

    let encodings = markdown::table(&markdown::text(), "Encodings", "encoding | name | body");
    for (byte, row) in (0u8..).zip(&encodings.rows) {
        assert_eq!(row[0], byte.to_string());
        let named = match Encoding::from_byte(byte) {
            Some(Encoding::Raw) => "raw",
            Some(Encoding::Zstd) => "zstd",
            Some(Encoding::ZstdWithBase) => "zstd with base",
            None if byte == Encoding::SEALED_RESERVED => "sealed",
            None => panic!("encoding {byte} is not known"),
        };
        assert_eq!(row[1], named);
    }
    assert_eq!(encodings.rows.len(), 4);
}

#[test]
fn fields_of_packs_lie_where_the_tables_say() {
    let bytes = kept("pack");
    let head = layout("Pack head");
    assert_eq!(field(&head, "store id", &bytes), STORE_ID.0);
    assert_eq!(value(&head, "content", &bytes), Content::Chunks as u64);
    assert_eq!(value(&head, "content", &kept("page-pack")), Content::Pages as u64);
    let directory = pack::directory_of(&bytes, STORE_ID).unwrap();
    let tail = layout("Pack tail");
    let tail_bytes = &bytes[bytes.len() - pack::TAIL_BYTES..];
    let directory_at = value(&tail, "directory", tail_bytes) as usize;
    assert_eq!(value(&tail, "chunks", tail_bytes), 3);
    assert_eq!(value(&tail, "bases", tail_bytes), 1);
    let entry = layout("Pack directory entry");
    for (record, at) in directory.records.iter().zip((directory_at..).step_by(pack::ENTRY_BYTES)) {
        let bytes = &bytes[at..];
        assert_eq!(field(&entry, "digest", bytes), record.digest.0);
        assert_eq!(value(&entry, "offset", bytes), u64::from(record.offset));
        assert_eq!(value(&entry, "stored length", bytes), u64::from(record.stored_bytes));
        assert_eq!(value(&entry, "plain length", bytes), u64::from(record.plain_bytes));
        assert_eq!(value(&entry, "encoding", bytes), record.encoding as u64);
        let base = if record.base.is_some() { 0 } else { NO_BASE };
        assert_eq!(value(&entry, "base", bytes), u64::from(base));
    }
    let bases_at = directory_at + 3 * pack::ENTRY_BYTES;
    assert_eq!(bytes[bases_at..][..pack::BASE_BYTES], Digest::of(golden::RAW.as_bytes()).0);
}

#[test]
fn fields_of_segments_lie_where_the_tables_say() {
    for name in ["index-segment", "index-segment-wide"] {
        let bytes = kept(name);
        let view = segment::SegmentView::parse(&bytes, STORE_ID).unwrap();
        let head = layout("Index segment head");
        assert_eq!(field(&head, "store id", &bytes), STORE_ID.0);
        assert_eq!(value(&head, "packs", &bytes), view.pack_count() as u64);
        assert_eq!(value(&head, "entries", &bytes), view.entry_count());
        let wide = name == "index-segment-wide";
        assert_eq!(value(&head, "bases", &bytes), if wide { 8 } else { 1 });
        assert_eq!(value(&head, "fan-out bits", &bytes), if wide { 2 } else { 0 });
        assert!(value(&head, "skipped bits", &bytes) >= 16 || !wide);
        let pack_entry = layout("Index pack table entry");
        let first = &bytes[segment::HEAD_BYTES..];
        let pack = view.pack(&bytes, 0).unwrap();
        assert_eq!(field(&pack_entry, "digest", first), pack.id.0);
        assert_eq!(value(&pack_entry, "length", first), pack.bytes);
        let entries_at = segment::HEAD_BYTES
            + view.pack_count() * segment::PACK_ENTRY_BYTES
            + (segment::FANOUT_BYTES << value(&head, "fan-out bits", &bytes));
        let entry = layout("Index entry");
        for ordinal in 0..view.entry_count() {
            let at = entries_at + ordinal as usize * segment::ENTRY_BYTES;
            let segment::Entry { pack, record } = view.entry(&bytes, ordinal).unwrap();
            assert_eq!(field(&entry, "digest", &bytes[at..]), record.digest.0);
            assert_eq!(value(&entry, "pack", &bytes[at..]), u64::from(pack));
            assert_eq!(value(&entry, "offset", &bytes[at..]), u64::from(record.offset));
            assert_eq!(value(&entry, "encoding", &bytes[at..]), record.encoding as u64);
        }
    }
}

#[test]
fn limits_are_those_of_the_code_and_none_is_forgotten() {
    macro_rules! values {
        ($($module:ident::$name:ident),* $(,)?) => {
            vec![$((stringify!($name), u64::try_from($module::$name).unwrap())),*]
        };
    }
    let actual = values![
        limits::CHUNK_BYTES_MAX,
        limits::STORED_BYTES_MAX,
        limits::PACK_BYTES_MAX,
        limits::PACK_CHUNKS_MAX,
        limits::RECORD_BYTES_MAX,
        limits::PAGE_BYTES_MAX,
        limits::LIST_LEVELS_MAX,
        limits::INLINE_CHUNKS_MAX,
        limits::PATH_BYTES_MAX,
        limits::NAME_BYTES_MAX,
        limits::LABEL_BYTES_MAX,
        limits::XATTRS_MAX,
        limits::XATTR_VALUE_BYTES_MAX,
        limits::ENTRY_BYTES_MAX,
        limits::EXTENSIONS_MAX,
        limits::MEMBERS_MAX,
        limits::RECORD_NAMES_MAX,
        limits::GENERATION_MAX,
        limits::REMOVAL_OBJECTS_MAX,
        limits::SEGMENT_ENTRIES_MAX,
        limits::FILE_BYTES_MAX,
        backend::KEY_BYTES_MAX,
        segment::FANOUT_BITS_MAX,
    ];
    let table = markdown::table(&markdown::text(), "Limits", "limit | value | of what");
    let stated: Vec<_> =
        table.rows.iter().map(|row| (code(&row[0]).unwrap(), row[1].parse().unwrap())).collect();
    assert_eq!(stated, actual);

    let source = std::fs::read_to_string(root().join("src/limits.rs")).unwrap();
    let (_, format) = source.split_once("---- the format").unwrap();
    let (format, _) = format.split_once("\n// ----").unwrap();
    let names = format.lines().filter_map(|line| line.strip_prefix("pub const "));
    for name in names.map(|line| line.split(':').next().unwrap()) {
        assert!(stated.iter().any(|(stated, _)| *stated == name), "{name} is not in the document");
    }
}

#[test]
fn dumps_show_the_golden_bytes() {
    let mut text = markdown::text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let all = golden::all();
        text = markdown::with_dumps(&text, |name| {
            hex::dump(&all.iter().find(|golden| golden.name == name).unwrap().bytes)
        });
        std::fs::write(markdown::path(), &text).unwrap();
    }
    let dumps = markdown::dumps(&text);
    assert!(dumps.len() >= 9, "{} dumps", dumps.len());
    for (name, shown) in dumps {
        let golden = golden::all().into_iter().find(|golden| golden.name == name);
        let golden = golden.unwrap_or_else(|| panic!("{name} is not golden"));
        assert_eq!(shown, hex::dump(&golden.bytes), "{name}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the sections of the document that a source file names.
fn sections_named_in(source: &str) -> Vec<String> {
    // Comments may be broken between any two words.
    let lines = source.lines().map(str::trim_start);
    let text: Vec<_> =
        lines.map(|line| line.trim_start_matches('/').trim_start_matches('!').trim()).collect();
    let text = text.join(" ");
    let mut names = Vec::new();
    for (at, _) in text.match_indices("`store-format.md`") {
        let before = text[..at].strip_suffix("\" in ").or(text[..at].strip_suffix("\") in "));
        let before = before.and_then(|before| before.rsplit_once('"'));
        let behind = text[at..].strip_prefix("`store-format.md` (\"");
        let behind = behind.and_then(|behind| behind.split_once('"'));
        names.extend(before.map(|(_, name)| name.to_owned()));
        names.extend(behind.map(|(name, _)| name.to_owned()));
    }
    names
}

#[test]
fn sections_that_the_code_names_exist() {
    let headings = markdown::headings(&markdown::text());
    let (mut folders, mut named) = (vec![root().join("src")], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                named.extend(sections_named_in(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(named.len() >= 14, "only {named:?} found");
    for name in named {
        assert!(headings.contains(&name), "the code names {name:?}");
    }
}

#[test]
fn links_inside_the_document_lead_somewhere() {
    let text = markdown::text();
    let anchor = |heading: &String| {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
    };
    let anchors: BTreeSet<_> = markdown::headings(&text).iter().map(anchor).collect();
    let mut count = 0;
    for part in text.split("](#").skip(1) {
        let (target, _) = part.split_once(')').unwrap();
        assert!(anchors.contains(target), "no heading for #{target}");
        count += 1;
    }
    assert!(count > 30, "{count} links");
}

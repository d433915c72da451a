//! The payload tables of `store-format.md`, taken at their word: a decoder that is driven by them
//! must use up every golden payload exactly, and their names and order are those of the code.

use std::collections::HashMap;
use std::fmt::Debug;

use strongroom::clock::UnixNanos;
use strongroom::digest::{Algorithm, Checksums, Digest};
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::format::manifest::{
    Artifact, Chunks, Counts, Entry, Extension, Generation, Member, Missing, Node,
};
use strongroom::format::page::{self, ChunkRef, ListRef, PageRef};
use strongroom::format::record::{GenerationName, GenerationNumber, Record};
use strongroom::format::removal;
use strongroom::format::{frame, header::Header};
use strongroom::values::{Chunking, Kind, Time, Xattr};

use super::golden::kept;
use super::markdown::{self, code};

/// Names and types of fields.
type Fields = Vec<(String, String)>;

/// A type of the document.
enum Type {
    Fields(Fields),
    /// Index, name and fields of variants.
    Variants(Vec<(u32, String, Fields)>),
}

/// The types that the document describes.
struct Schema(HashMap<String, Type>);

impl Schema {
    fn of(text: &str) -> Self {
        let mut types = HashMap::new();
        for table in markdown::tables(text) {
            let Some(name) = code(&table.heading) else { continue };
            let described = match table.columns.join(" | ").as_str() {
                "field | type | meaning | valid values" => {
                    let plain = |cell: &str| code(cell).unwrap().to_owned();
                    let field = |row: &Vec<String>| (plain(&row[0]), plain(&row[1]));
                    Type::Fields(table.rows.iter().map(field).collect())
                }
                "index | variant | fields | meaning" => {
                    let variant = |row: &Vec<String>| {
                        let name = code(&row[1]).unwrap().to_owned();
                        (row[0].parse().unwrap(), name, variant_fields(&row[2]))
                    };
                    Type::Variants(table.rows.iter().map(variant).collect())
                }
                _ => continue,
            };
            assert!(types.insert(name.to_owned(), described).is_none(), "{name} twice");
        }
        Self(types)
    }

    /// Passes over a value; returns what is behind it.
    fn skip<'b>(&self, of: &str, bytes: &'b [u8]) -> &'b [u8] {
        if let Some(item) = of.strip_prefix("opt ") {
            let (is_some, rest) = bytes.split_at(1);
            assert!(is_some[0] <= 1, "{of}: {}", is_some[0]);
            return if is_some[0] == 1 { self.skip(item, rest) } else { rest };
        }
        if let Some(item) = of.strip_prefix("seq ") {
            let (count, mut rest) = number(bytes, 8);
            for _ in 0..count {
                rest = self.skip(item, rest);
            }
            return rest;
        }
        if let Some(count) = of.strip_prefix('[').and_then(|of| of.strip_suffix(']')) {
            return &bytes[count.parse().unwrap()..];
        }
        match of {
            "u8" => &bytes[1..],
            "u16" => &bytes[2..],
            "u32" => &bytes[4..],
            "u64" | "i64" => &bytes[8..],
            "bytes" | "text" => {
                let (count, rest) = number(bytes, 8);
                &rest[count as usize..]
            }
            _ => self.skip_described(of, bytes),
        }
    }

    fn skip_described<'b>(&self, of: &str, bytes: &'b [u8]) -> &'b [u8] {
        let skip = |bytes, (_, of): &(String, String)| self.skip(of, bytes);
        match self.0.get(of).unwrap_or_else(|| panic!("the document does not describe {of}")) {
            Type::Fields(fields) => fields.iter().fold(bytes, skip),
            Type::Variants(variants) => {
                let (index, rest) = number(bytes, 4);
                let variant = variants.iter().find(|variant| u64::from(variant.0) == index);
                let (_, _, fields) = variant.unwrap_or_else(|| panic!("{of} {index}"));
                fields.iter().fold(rest, skip)
            }
        }
    }

    #[track_caller]
    fn assert_used_up(&self, of: &str, bytes: &[u8]) {
        assert_eq!(self.skip(of, bytes).len(), 0, "bytes behind the fields of {of}");
    }
}

fn variant_fields(cell: &str) -> Fields {
    let fields = cell.split('`').skip(1).step_by(2);
    let field = |field: &str| {
        let (name, of) = field.split_once(": ").unwrap();
        (name.to_owned(), of.to_owned())
    };
    fields.map(field).collect()
}

fn number(bytes: &[u8], size: usize) -> (u64, &[u8]) {
    let (number, rest) = bytes.split_at(size);
    (number.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), rest)
}

fn payload(name: &str, kind: frame::Kind) -> Vec<u8> {
    frame::open(kind, &kept(name)).unwrap().to_vec()
}

#[test]
fn payload_tables_describe_every_byte_of_the_golden_payloads() {
    let schema = Schema::of(&markdown::text());
    schema.assert_used_up("Header", &payload("store-header", frame::STORE));
    schema.assert_used_up("Artifact", &payload("artifact-manifest", frame::ARTIFACT));
    schema.assert_used_up("Generation", &payload("generation-manifest", frame::GENERATION));
    for name in ["commit-promote", "commit-unknown"] {
        schema.assert_used_up("Commit", &payload(name, frame::COMMIT));
    }
    schema.assert_used_up("JournalRecord", &payload("journal-record", frame::JOURNAL));
    schema.assert_used_up("EndedJournal", &payload("ended-journal", frame::ENDED_JOURNAL));
    for (name, body) in [
        ("commit-promote", "Promote"),
        ("commit-forget", "Names"),
        ("commit-undo", "Names"),
        ("commit-pin", "GenerationName"),
        ("commit-unpin", "GenerationName"),
        ("commit-condemn", "Condemn"),
        ("commit-collect", "Collect"),
        ("commit-collected", "Collected"),
    ] {
        let record = payload(name, frame::COMMIT);
        schema.assert_used_up("Commit", &record);
        // Behind number, digest, time, kind and count.
        schema.assert_used_up(body, &record[58..]);
    }
    schema.assert_used_up("Removal", &payload("removal-list", frame::REMOVAL));
    let pages = [
        ("page-chunks", "ChunkRef"),
        ("page-entries", "Entry"),
        ("page-entry", "Entry"),
        ("page-references", "PageRef"),
    ];
    for (name, item) in pages {
        let page = kept(name);
        let (count, _) = number(&page[4..], 4);
        let rest = (0..count).fold(&page[page::HEAD_BYTES..], |rest, _| schema.skip(item, rest));
        assert_eq!(rest.len(), 0, "bytes behind the items of {name}");
    }
}

/// Returns the names of the fields of a value, in order, from its own description.
fn field_names(value: &impl Debug) -> Vec<String> {
    let text = format!("{value:#?}");
    let fields = text.lines().filter_map(|line| line.strip_prefix("    "));
    let fields = fields.filter(|line| !line.starts_with([' ', '}', ']', ')']));
    fields.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

#[test]
fn fields_have_the_names_and_the_order_of_the_code() {
    let schema = Schema::of(&markdown::text());
    let assert_fields = |name: &str, value: &dyn Debug| {
        let Some(Type::Fields(fields)) = schema.0.get(name) else { panic!("no table {name}") };
        let expected: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(field_names(&value), expected, "{name}");
    };
    let (header, _) = Header::decode(&kept("store-header")).unwrap();
    let artifact = Artifact::decode(&kept("artifact-manifest")).unwrap();
    let generation = Generation::decode(&kept("generation-manifest")).unwrap();
    let entries = page::decode::<Entry>(&kept("page-entries"), 0).unwrap();
    let content = entries.iter().find_map(Entry::content).unwrap();
    assert_fields("Header", &header);
    assert_fields("Params", &header.chunking);
    assert_fields("ListRef", &ListRef::EMPTY);
    assert_fields("PageRef", artifact.entries.top.as_ref().unwrap());
    assert_fields("ChunkRef", &ChunkRef::hole(1));
    assert_fields("Entry", &entries[0]);
    assert_fields("Time", &Time { secs: 0, nanos: 0 });
    assert_fields("Xattr", &Xattr { name: Vec::new(), value: Vec::new() });
    assert_fields("Content", content);
    assert_fields("Checksums", &content.checksums);
    assert_fields("Artifact", &artifact);
    assert_fields("Counts", &Counts::default());
    assert_fields("Extension", &Extension { name: String::new(), value: Vec::new() });
    assert_fields("Generation", &generation);
    assert_fields("Member", &Member { name: String::new(), artifact: Digest::ZERO });
    assert_fields("Missing", &Missing { name: String::new(), reason: String::new() });
    assert_fields("EndedJournal", &EndedJournal { records: vec![] });
    assert_fields("JournalRecord", &JournalRecord::decode(&kept("journal-record")).unwrap());
    assert_fields("Removal", &removal::List::default());
    let (deployment, generation) = (String::new(), GenerationNumber(1));
    assert_fields("GenerationName", &GenerationName { deployment, generation });
    let commit = field_names(&Record::decode(&kept("commit-promote")).unwrap());
    let Some(Type::Fields(fields)) = schema.0.get("Commit") else { panic!("no table Commit") };
    assert!(commit[..3].iter().eq(fields[..3].iter().map(|(name, _)| name)), "{commit:?}");
}

/// Encodes a value as the library does.
fn encoded<T: bincode::Encode>(value: &T) -> Vec<u8> {
    let config = bincode::config::standard().with_fixed_int_encoding();
    bincode::encode_to_vec(value, config).unwrap()
}

/// Checks variants, all of them and in order.
fn assert_variants<T: bincode::Encode + Debug>(schema: &Schema, name: &str, values: &[T]) {
    let Some(Type::Variants(variants)) = schema.0.get(name) else { panic!("no table {name}") };
    assert_eq!(variants.len(), values.len(), "variants of {name}");
    for (value, (index, variant, fields)) in values.iter().zip(variants) {
        let bytes = encoded(value);
        assert_eq!(number(&bytes, 4).0, u64::from(*index), "{value:?}");
        schema.assert_used_up(name, &bytes);
        let text = format!("{value:#?}");
        let first = text.split([' ', '(']).next();
        assert_eq!(first, Some(variant.as_str()), "{name}");
        let names = field_names(value);
        let expected: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
        assert!(names == expected || text.contains('('), "{value:?}: {expected:?}");
    }
}

#[test]
fn variants_have_the_indices_and_the_fields_of_the_code() {
    let schema = Schema::of(&markdown::text());
    let entries = page::decode::<Entry>(&kept("page-entries"), 0).unwrap();
    let content = entries.iter().find_map(Entry::content).unwrap().clone();
    let nodes = [Node::File(content), Node::HardLink(b"a".to_vec()), Node::Other(Kind::Dir)];
    assert_variants(&schema, "Node", &nodes);
    let (major, minor) = (1, 2);
    assert_variants(
        &schema,
        "Kind",
        &[
            Kind::File,
            Kind::Dir,
            Kind::Symlink { target: b"a".to_vec() },
            Kind::Fifo,
            Kind::Socket,
            Kind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor },
        ],
    );
    assert_variants(
        &schema,
        "Chunking",
        &[
            Chunking::Whole,
            Chunking::Fixed { chunk_bytes: 1 },
            Chunking::Cdc { min_bytes: 1, avg_bytes: 2, max_bytes: 3 },
        ],
    );
    let hole = Chunks::Inline(vec![ChunkRef::hole(1)]);
    assert_variants(&schema, "Chunks", &[hole, Chunks::List(ListRef::EMPTY)]);
    assert_variants(&schema, "Algorithm", &[Algorithm::Blake3, Algorithm::Sha256]);
    // Values that stand in no table by themselves.
    assert_eq!(encoded(&UnixNanos(-2)), (-2i64).to_le_bytes());
    let checksums = Checksums { sha256: Some([7; 32]), ..Checksums::of(b"", false) };
    schema.assert_used_up("Checksums", &encoded(&checksums));
    let list = ListRef {
        levels: 1,
        top: Some(PageRef { digest: Digest::ZERO, items: 1, bytes: 1, key: vec![1, 2] }),
    };
    schema.assert_used_up("ListRef", &encoded(&list));
}

//! Fuzzing: everything that is decoded from bytes of others, each with what must hold of it.
//!
//! A body panics when something is wrong. Bytes that are covered by a checksum are tried as they
//! are and once more with a checksum that fits, so that a change reaches what lies behind it.
//!
//! | module | what |
//! |---|---|
//! | `bytes` | objects of the format |
//! | `texts` | JSON, TOML and names |
//! | `whole` | a store that is built, damaged and used |
//! | `mutate` | changes of inputs, for where no fuzzer is at hand |

mod bytes;
pub mod mutate;
pub mod seal;
mod texts;
mod whole;

/// Tries one input; says whether it was taken. Panics if something is wrong.
pub type Body = fn(&[u8]) -> bool;

/// Something that is fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its corpus and of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Tries an input.
    pub body: Body,
    /// Most memory in MiB that an input of 1 MiB may take.
    pub memory_mib: usize,
    /// Its share of the time.
    pub weight: u32,
}

const fn decoder(name: &'static str, body: Body) -> Target {
    Target { name, body, memory_mib: 64, weight: 2 }
}

/// All of them.
pub const TARGETS: [Target; 24] = [
    decoder("header", bytes::header),
    decoder("artifact", bytes::artifact),
    decoder("generation", bytes::generation),
    decoder("commit_record", bytes::commit_record),
    decoder("removal_list", bytes::removal_list),
    decoder("journal_record", bytes::journal_record),
    decoder("ended_journal", bytes::ended_journal),
    decoder("pack", bytes::pack),
    decoder("segment", bytes::segment),
    decoder("page_chunks", bytes::page_chunks),
    decoder("page_references", bytes::page_references),
    decoder("page_entries", bytes::page_entries),
    decoder("chunk", bytes::chunk),
    decoder("plan", texts::plan),
    decoder("restore_plan", texts::restore_plan),
    decoder("restore_map", texts::restore_map),
    decoder("facts", texts::facts),
    // The owner's own file; the parser of TOML takes up to 140 bytes for one byte of text.
    Target { name: "config", body: texts::config, memory_mib: 256, weight: 2 },
    decoder("inventory", texts::inventory),
    decoder("journal", texts::journal),
    decoder("replies", texts::replies),
    decoder("canic", texts::canic),
    decoder("names", texts::names),
    // A backup has buffers, whose bound is the one that is promised for backups.
    Target { name: "store", body: whole::store, memory_mib: 300, weight: 14 },
];

/// Runs a target by its name.
///
/// # Panics
/// If there is none of this name, and if the input shows something wrong.
pub fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").body)(input)
}

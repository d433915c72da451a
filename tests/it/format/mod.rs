//! The format: golden bytes, a reader that knows only `store-format.md`, and the document itself.
//!
//! | module | what |
//! |---|---|
//! | `decoder` | the independent reader |
//! | `golden` | a small store of fixed values; its bytes are kept in `golden/*.hex` |
//! | `agreement` | encoders, decoders and the independent reader agree on these bytes |
//! | `real_store` | the independent reader restores a real store |
//! | `document` | layouts, limits and dumps of `store-format.md` say what the code does |
//! | `schema` | so do its payload tables, taken at their word |
//! | `chunking` | content is cut as it says |
//!
//! `UPDATE_GOLDEN=1` writes `golden/*.hex` and the dumps in `store-format.md` anew. A change of
//! bytes is a change of the format: see "Versions" there.

mod agreement;
mod chunking;
mod decoder;
mod document;
mod golden;
mod hex;
mod markdown;
mod real_store;
mod schema;

/// Returns the text that a directory's checksum is over, of paths and checksums in order:
/// "Directory checksum".
fn checksum_lines(files: &[(Vec<u8>, String)]) -> Vec<u8> {
    files
        .iter()
        .flat_map(|(path, hex)| [&path[..], b"\0", hex.as_bytes(), b"\n"].concat())
        .collect()
}

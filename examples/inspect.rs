//! Looks into a store: its generations, the entries of one, the content of a file.
//!
//! ```text
//! cargo run --release --example inspect -- STORE                          # generations
//! cargo run --release --example inspect -- STORE orders@g3                # entries
//! cargo run --release --example inspect -- STORE orders:api/config.toml   # content
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use strongroom::backend::LocalBackend;
use strongroom::store::{Node, Reference, Store, Tree};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let Some(place) = args.next() else { return Err("usage: inspect STORE [REF[:PATH]]".into()) };
    let store = Store::open(Arc::new(LocalBackend::open(Path::new(&place))?))?;
    let mut out = io::stdout().lock();
    match args.next() {
        None => generations(&store, &mut out),
        Some(text) => {
            let tree = store.tree(&Reference::parse(text.as_bytes())?)?;
            if tree.path.is_empty() {
                entries(&store, &tree, &mut out)
            } else {
                let content = store.content(&tree.members[0], &tree.path)?;
                Ok(store.write_content(&content, &mut out)?)
            }
        }
    }
}

/// Lists what the commit log makes visible. A damaged record hides only its own generation.
fn generations(store: &Store, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let log = store.log()?;
    for generation in log.generations() {
        writeln!(
            out,
            "{}@{}  manifest {}",
            generation.deployment, generation.number, generation.manifest
        )?;
    }
    for damaged in log.damaged() {
        writeln!(out, "record {} cannot be trusted: {}", damaged.number.0, damaged.fault)?;
    }
    Ok(())
}

/// Lists the entries of all members, in order of path. Lists are read page by page: memory does
/// not grow with the number of entries.
fn entries(store: &Store, tree: &Tree, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    for member in &tree.members {
        for entry in store.entries(&member.artifact) {
            let entry = entry?;
            let path = String::from_utf8_lossy(&entry.path);
            let name = [&member.name, &*path].join("/");
            let name = name.trim_end_matches('/');
            match &entry.node {
                Node::File(content) => {
                    writeln!(out, "{}  {:>12}  {name}", content.checksums.blake3, content.bytes)?;
                }
                Node::HardLink(to) => {
                    writeln!(out, "hard link {name} to {}", String::from_utf8_lossy(to))?;
                }
                Node::Other(kind) => writeln!(out, "{} {name}", kind.name())?,
            }
        }
    }
    Ok(())
}

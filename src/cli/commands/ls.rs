//! `ls`: the members of a generation, or what is at a path.

use std::io::{self, Write};

use super::entries::{Links, Row, full_path};
use super::{exit_for, open_tree};
use crate::cli::args::Ls;
use crate::cli::context::Context;
use crate::cli::errors::{self, Failure};
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::output::{self, Names, note};
use crate::store::{Entry, Member, Node, Store, Tree};
use crate::values::{Kind, compare_paths};

/// Runs the command.
///
/// # Errors
/// There is no such thing, or standard output failed.
pub fn run(args: &Ls, context: &Context) -> Result<Exit, Failure> {
    let store = context.open()?;
    let tree = open_tree(context, &store, "ls", &args.reference)?;
    let mut out = output::stdout()?;
    if context.json {
        let mut object = Object::document(&mut out, "ls")?;
        object.field("deployment", &tree.generation.deployment)?;
        object.field("generation", &tree.generation.number.0)?;
        let mut entries = object.array("entries")?;
        let exit = list(args, context, &store, &tree, &mut |row| entries.push(&row.fields()))?;
        entries.end()?;
        object.finish()?;
        return Ok(exit);
    }
    let names = Names::for_stdout();
    let mut each = |row: &Row<'_>| row.write(&mut out, names, args.long);
    let exit = list(args, context, &store, &tree, &mut each);
    out.flush()?;
    exit
}

type Each<'e> = dyn FnMut(&Row<'_>) -> io::Result<()> + 'e;

fn list(
    args: &Ls,
    context: &Context,
    store: &Store,
    tree: &Tree,
    each: &mut Each<'_>,
) -> Result<Exit, Failure> {
    let mut exit = exit_for(tree);
    for member in &tree.members {
        let mut listing = Listing { store, member, links: Links::new(store, member), exit, each };
        if args.reference.path.is_none() {
            listing.member(args.recursive)?;
        } else {
            let root = store.entry(member, &tree.path);
            let root = root.map_err(|e| Failure::at(context, "ls", &args.reference, e))?;
            match root.node {
                Node::Other(Kind::Dir) => listing.below(&tree.path, args.recursive)?,
                _ => listing.entry(&root)?,
            }
        }
        exit = listing.exit;
    }
    Ok(exit)
}

/// The listing of one member.
struct Listing<'a, 's> {
    store: &'s Store,
    member: &'s Member,
    links: Links<'s>,
    exit: Exit,
    each: &'a mut Each<'a>,
}

impl Listing<'_, '_> {
    /// Lists the member itself and, if `recursive`, all that it holds.
    fn member(&mut self, recursive: bool) -> Result<(), Failure> {
        for entry in self.store.entries(&self.member.artifact) {
            match entry {
                Ok(entry) => self.entry(&entry)?,
                Err(fault) => self.fault(&fault, errors::exit_of_page(&fault)),
            }
            if !recursive {
                break;
            }
        }
        Ok(())
    }

    /// Lists what is below the directory at `path`.
    fn below(&mut self, path: &[u8], recursive: bool) -> Result<(), Failure> {
        /// Entries of a deeper directory that are read before the rest of it is skipped.
        const SKIP_AFTER: usize = 512;
        let (mut deeper, mut from) = (0, Some(Start::At(path.to_vec())));
        while let Some(start) = from.take() {
            let mut entries = self.store.entries(&self.member.artifact);
            if let Err(fault) = entries.skip_to(|key| start.is_before(key)) {
                self.fault(&fault, errors::exit_of_page(&fault));
            }
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(fault) if is_below(&fault.first, path) => {
                        self.fault(&fault, errors::exit_of_page(&fault));
                        continue;
                    }
                    Err(_) => break,
                };
                if entry.path == path {
                    continue;
                }
                if !is_below(&entry.path, path) {
                    break;
                }
                match child_above(&entry.path, path) {
                    Some(_) if recursive => self.entry(&entry)?,
                    None => {
                        deeper = 0;
                        self.entry(&entry)?;
                    }
                    Some(child) => {
                        deeper += 1;
                        if deeper > SKIP_AFTER {
                            (deeper, from) = (0, Some(Start::Behind(child.to_vec())));
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        let bytes = match self.links.facts(entry) {
            Ok(facts) => facts.map_or(0, |facts| facts.bytes),
            Err(error) => {
                self.fault(&error, errors::exit_of(&error));
                0
            }
        };
        let path = full_path(&self.member.name, &entry.path);
        Ok((self.each)(&Row { path, member: &self.member.name, entry, bytes })?)
    }

    fn fault(&mut self, error: &dyn std::fmt::Display, found: Exit) {
        note(&format!("strongroom: ls: member {}: {error}", self.member.name));
        if self.exit != Exit::DAMAGE {
            self.exit = found;
        }
    }
}

/// Where a walk begins.
enum Start {
    /// At a path.
    At(Vec<u8>),
    /// Behind everything at and below a path.
    Behind(Vec<u8>),
}

impl Start {
    fn is_before(&self, key: &[u8]) -> bool {
        match self {
            Self::At(path) => compare_paths(key, path).is_lt(),
            Self::Behind(path) => {
                key == path || is_below(key, path) || compare_paths(key, path).is_lt()
            }
        }
    }
}

/// Says whether `path` lies below the directory `dir`.
fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) if dir.is_empty() => !rest.is_empty(),
        Some(rest) => rest.first() == Some(&b'/'),
        None => false,
    }
}

/// Returns the child of `dir` that `path` lies below; `None` if it is a child itself.
fn child_above<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    let from = if dir.is_empty() { 0 } else { dir.len() + 1 };
    let slash = path[from..].iter().position(|byte| *byte == b'/')?;
    Some(&path[..from + slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_told_from_what_is_deeper() {
        assert_eq!(child_above(b"a", b""), None);
        assert_eq!(child_above(b"a/b/c", b""), Some(&b"a"[..]));
        assert_eq!(child_above(b"a/b", b"a"), None);
        assert_eq!(child_above(b"a/b/c/d", b"a"), Some(&b"a/b"[..]));
        assert!(is_below(b"a/b", b"a") && is_below(b"a", b""));
        assert!(!is_below(b"ab", b"a") && !is_below(b"a", b"a") && !is_below(b"", b""));
    }

    #[test]
    fn a_walk_begins_behind_a_whole_directory() {
        let behind = Start::Behind(b"a/b".to_vec());
        for before in ["", "a", "a/a", "a/b", "a/b/z"] {
            assert!(behind.is_before(before.as_bytes()), "{before}");
        }
        for after in ["a/b-c", "a/c", "b"] {
            assert!(!behind.is_before(after.as_bytes()), "{after}");
        }
    }
}

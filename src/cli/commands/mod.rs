//! The commands, one module each, and what several of them share.

pub mod backup;
pub mod cat;
pub mod completions;
pub mod config;
pub mod diff;
pub mod fleet_backup;
pub mod init;
pub mod interchange;
pub mod list;
pub mod ls;
pub mod man;
pub mod pin;
pub mod prune;
pub mod restore;
pub mod runs;
pub mod show;
pub mod stats;
pub mod verify;
pub mod way_back;

mod entries;

use super::context::Context;
use super::errors::Failure;
use super::exit::Exit;
use super::output::{note, printable};
use crate::log::Log;
use crate::store::{Missing, Reference, Store, Tree};

/// Opens what a reference points to. What the generation lacks, and what may hide a newer one, is
/// told on stderr.
///
/// # Errors
/// It does not exist, or cannot be read.
fn open_tree(
    context: &Context,
    store: &Store,
    verb: &str,
    reference: &Reference,
) -> Result<Tree, Failure> {
    let failed = |error| Failure::at(context, verb, reference, error);
    note_damaged_commits(context, &store.log().map_err(failed)?);
    let tree = store.tree(reference).map_err(failed)?;
    if let (false, Some(member)) = (tree.path.is_empty(), tree.members.first()) {
        store.entry(member, &tree.path).map_err(failed)?;
    }
    for (member, reason) in &tree.unreadable {
        note(&format!("strongroom: {verb} {}: member {member}: {reason}", tree.name()));
    }
    Ok(tree)
}

/// Tells of commit records that are damaged.
fn note_damaged_commits(context: &Context, log: &Log) {
    if log.damaged().is_empty() {
        return;
    }
    for damaged in log.damaged() {
        let number = damaged.number.0;
        note(&format!("strongroom: commit record {number} cannot be trusted: {}", damaged.fault));
    }
    let verify = context.command("verify --structure");
    note(&format!("  hint: generations may be hidden by this; `{verify}` tells more"));
}

/// Tells of members that a generation never had because their sources failed.
fn note_missing(name: &str, missing: &[Missing]) {
    for missing in missing {
        note(&format!(
            "strongroom: {name} was made without the member {}: {}",
            missing.name, missing.reason
        ));
    }
}

/// How a command ends that left out what could not be read.
fn exit_for(tree: &Tree) -> Exit {
    if tree.unreadable.is_empty() { Exit::DONE } else { Exit::DAMAGE }
}

/// Tells the first few of many things on stderr.
fn note_first<T>(things: &[T], line: impl Fn(&T) -> String) {
    const SHOWN: usize = 20;
    for thing in things.iter().take(SHOWN) {
        note(&line(thing));
    }
    if things.len() > SHOWN {
        note(&format!("  and {} more (--json lists all)", things.len() - SHOWN));
    }
}

/// Splits `name@gN` into the deployment and the number.
fn split_name(name: &str) -> (&str, Option<u64>) {
    match name.split_once("@g") {
        Some((deployment, number)) => (deployment, number.parse().ok()),
        None => (name, None),
    }
}

/// Returns what is shown of a failed source.
fn reasons<T: std::fmt::Display>(faults: &[T]) -> Vec<String> {
    faults.iter().map(|fault| printable(&fault.to_string()).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_generations_split() {
        assert_eq!(split_name("orders@g12"), ("orders", Some(12)));
        assert_eq!(split_name("orders"), ("orders", None));
    }
}

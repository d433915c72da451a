//! Topology hash: one value for which members a deployment has, how they hang together, what they
//! do and which code they run. It is computed when a plan is made and again right before the first
//! stop; if it differs, the deployment has changed in between.
//!
//! Bit-identical with the one of canic-backup 0.68.2, so that generations can be exchanged:
//! SHA-256 of the rows `pid=…|parent_pid=…|role=…|module_hash=…`, sorted and joined by newlines.

use ic_principal::Principal;
use sha2::{Digest as _, Sha256};

use super::inventory::Row;
use crate::digest::hex;

/// The only algorithm.
pub const ALGORITHM: &str = "sha256";
/// What is hashed, in the words of canic-backup.
pub const INPUT: &str = "sorted(pid,parent_pid,role,module_hash)";

/// The topology hash of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyHash {
    /// [`ALGORITHM`].
    pub algorithm: &'static str,
    /// [`INPUT`].
    pub input: &'static str,
    /// 64 lowercase hexadecimal digits.
    pub hash: String,
}

/// Hashes the members, breadth first ([`Inventory::rows`](super::inventory::Inventory::rows)).
///
/// The order matters only for members without a role: see [`role_at`].
#[must_use]
pub fn topology_hash(rows: &[Row]) -> TopologyHash {
    let mut lines: Vec<_> = rows.iter().enumerate().map(|(at, row)| line(at, row)).collect();
    lines.sort_unstable();
    let hash = hex(&Sha256::digest(lines.join("\n")));
    TopologyHash { algorithm: ALGORITHM, input: INPUT, hash }
}

/// Returns the role of the member at `at`, breadth first, as it is hashed: one without a role is
/// called `root` if it is the first and `member-N` otherwise, with N its place from 0.
#[must_use]
pub fn role_at(at: usize, role: Option<&str>) -> String {
    match role {
        Some(role) => role.to_owned(),
        None if at == 0 => "root".to_owned(),
        None => format!("member-{at}"),
    }
}

fn line(at: usize, row: &Row) -> String {
    let parent = row.parent.as_deref().map_or_else(|| "null".to_owned(), identity);
    let role = role_at(at, row.role.as_deref());
    let module_hash = row.module_hash.as_deref().unwrap_or("null");
    format!("pid={}|parent_pid={parent}|role={role}|module_hash={module_hash}", identity(&row.id))
}

/// Returns a principal in the usual letters, anything else as it is.
fn identity(id: &str) -> String {
    Principal::from_text(id).map_or_else(|_| id.to_owned(), |principal| principal.to_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, parent: Option<&str>, role: Option<&str>) -> Row {
        let own = |text: &str| text.to_owned();
        Row { id: own(id), parent: parent.map(own), role: role.map(own), ..Row::default() }
    }

    #[test]
    fn the_hash_is_of_sorted_lines() {
        let rows = [
            row("RENRK-EYAAA-AAAAA-AAADA-CAI", None, None),
            row("b", Some("renrk-eyaaa-aaaaa-aaada-cai"), Some("app")),
            row("a", Some("b"), None),
        ];
        let text = "pid=a|parent_pid=b|role=member-2|module_hash=null\n\
            pid=b|parent_pid=renrk-eyaaa-aaaaa-aaada-cai|role=app|module_hash=null\n\
            pid=renrk-eyaaa-aaaaa-aaada-cai|parent_pid=null|role=root|module_hash=null";
        assert_eq!(topology_hash(&rows).hash, hex(&Sha256::digest(text)));
    }

    #[test]
    fn order_does_not_matter_where_all_have_roles() {
        let mut rows = [row("a", None, Some("x")), row("b", Some("a"), Some("y"))];
        let hash = topology_hash(&rows);
        rows.reverse();
        assert_eq!(topology_hash(&rows), hash);
        rows[0].module_hash = Some("0".repeat(64));
        assert_ne!(topology_hash(&rows), hash);
    }
}

//! Inventory: the members of a deployment and how they hang together.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES_MAX;
use crate::store::parse_label;

/// One member of a deployment, as the service or the configuration states it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The member's identity: a canister's principal, or any label of a service. It names the member
    /// in the store.
    pub id: String,
    /// What it does in the deployment; several members may have one role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What sort of thing it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The identity of the member above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// SHA-256 of its code, as lowercase hex without `0x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_hash: Option<String>,
}

/// Why an inventory was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has no members.
    #[error("the inventory has no members")]
    Empty,
    /// A member's identity cannot name it in the store.
    #[error("member {id:?}: {reason}")]
    BadId {
        /// The identity.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// A member appears twice.
    #[error("member {id} appears twice in the inventory")]
    Duplicate {
        /// The identity.
        id: String,
    },
    /// A member's parent is not in the inventory.
    #[error("member {id} has the parent {parent}, which is not in the inventory")]
    UnknownParent {
        /// The member.
        id: String,
        /// Its parent.
        parent: String,
    },
    /// Members are their own ancestors.
    #[error("members are their own ancestors: {}", .members.join(", "))]
    Cycle {
        /// The members on no path from a root.
        members: Vec<String>,
    },
    /// A role or kind that is no name any more.
    #[error("member {id}: its {what} has {bytes} bytes, at most {NAME_BYTES_MAX} allowed")]
    TooLong {
        /// The member.
        id: String,
        /// `role` or `kind`.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// A module hash that is no SHA-256.
    #[error("member {id}: module hash {hash:?} is not 64 hexadecimal digits")]
    BadModuleHash {
        /// The member.
        id: String,
        /// What is given.
        hash: String,
    },
}

/// A checked inventory, breadth first: unique members, known parents, no cycles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    rows: Vec<Row>,
    depths: Vec<u32>,
}

impl Inventory {
    /// Checks the rows and puts them in order: by depth, then as children were given under their
    /// parents.
    ///
    /// # Errors
    /// Every [`Error`].
    pub fn new(rows: Vec<Row>) -> Result<Self, Error> {
        if rows.is_empty() {
            return Err(Error::Empty);
        }
        let mut ids = HashSet::new();
        for row in &rows {
            check_row(row)?;
            if !ids.insert(row.id.as_str()) {
                return Err(Error::Duplicate { id: row.id.clone() });
            }
        }
        let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut queue = VecDeque::new();
        for (at, row) in rows.iter().enumerate() {
            match row.parent.as_deref() {
                None => queue.push_back((at, 0)),
                Some(parent) if ids.contains(parent) => {
                    children.entry(parent).or_default().push(at);
                }
                Some(parent) => {
                    let (id, parent) = (row.id.clone(), parent.to_owned());
                    return Err(Error::UnknownParent { id, parent });
                }
            }
        }
        let mut order = Vec::with_capacity(rows.len());
        while let Some((at, depth)) = queue.pop_front() {
            order.push((at, depth));
            let below = children.get(rows[at].id.as_str()).into_iter().flatten();
            queue.extend(below.map(|child| (*child, depth + 1)));
        }
        if order.len() < rows.len() {
            let reached: HashSet<_> = order.iter().map(|(at, _)| *at).collect();
            let lost = (0..rows.len()).filter(|at| !reached.contains(at));
            return Err(Error::Cycle { members: lost.map(|at| rows[at].id.clone()).collect() });
        }
        let depths = order.iter().map(|(_, depth)| *depth).collect();
        let rows = order.into_iter().map(|(at, _)| rows[at].clone()).collect();
        Ok(Self { rows, depths })
    }

    /// Returns the members, breadth first.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns a member and its depth (0 for a member without a parent).
    #[must_use]
    pub fn get(&self, id: &str) -> Option<(&Row, u32)> {
        let at = self.rows.iter().position(|row| row.id == id)?;
        Some((&self.rows[at], self.depths[at]))
    }

    /// Returns the members with their depths, breadth first.
    pub fn with_depths(&self) -> impl Iterator<Item = (&Row, u32)> {
        self.rows.iter().zip(self.depths.iter().copied())
    }

    /// Returns `id` and all below it, breadth first.
    #[must_use]
    pub fn subtree(&self, id: &str) -> Vec<&Row> {
        let mut found: HashSet<&str> = HashSet::from([id]);
        let mut rows = Vec::new();
        // Breadth first: a parent comes before its children.
        for row in &self.rows {
            let below = row.parent.as_deref().is_some_and(|parent| found.contains(parent));
            if row.id == id || below {
                found.insert(&row.id);
                rows.push(row);
            }
        }
        rows
    }
}

fn check_row(row: &Row) -> Result<(), Error> {
    parse_label("member", &row.id)
        .map_err(|error| Error::BadId { id: row.id.clone(), reason: error.to_string() })?;
    for (what, text) in [("role", &row.role), ("kind", &row.kind)] {
        let bytes = text.as_ref().map_or(0, String::len);
        if bytes > NAME_BYTES_MAX {
            return Err(Error::TooLong { id: row.id.clone(), what, bytes });
        }
    }
    match &row.module_hash {
        Some(hash) if !is_sha256_hex(hash) => {
            Err(Error::BadModuleHash { id: row.id.clone(), hash: hash.clone() })
        }
        _ => Ok(()),
    }
}

/// Says whether `text` is 64 lowercase hexadecimal digits.
#[must_use]
pub fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, parent: Option<&str>) -> Row {
        Row { id: id.into(), parent: parent.map(Into::into), ..Row::default() }
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn members_are_put_breadth_first() {
        let rows = vec![
            row("leaf", Some("a")),
            row("a", Some("root")),
            row("root", None),
            row("b", Some("root")),
        ];
        let inventory = Inventory::new(rows).unwrap();
        assert_eq!(ids(inventory.rows()), ["root", "a", "b", "leaf"]);
        assert_eq!(inventory.get("leaf").unwrap().1, 2);
        let below: Vec<_> = inventory.subtree("a").iter().map(|row| &row.id).collect();
        assert_eq!(below, ["a", "leaf"]);
    }

    #[test]
    fn what_does_not_hang_together_is_refused() {
        assert_eq!(Inventory::new(vec![]), Err(Error::Empty));
        let twice = vec![row("a", None), row("a", None)];
        assert_eq!(Inventory::new(twice), Err(Error::Duplicate { id: "a".into() }));
        let orphan = vec![row("a", Some("b"))];
        assert!(matches!(Inventory::new(orphan), Err(Error::UnknownParent { .. })));
        let ring = vec![row("root", None), row("a", Some("b")), row("b", Some("a"))];
        let Err(Error::Cycle { members }) = Inventory::new(ring) else { panic!() };
        assert_eq!(members, ["a", "b"]);
        assert!(matches!(Inventory::new(vec![row("a/b", None)]), Err(Error::BadId { .. })));
        let hash = Row { module_hash: Some("0x12".into()), ..row("a", None) };
        assert!(matches!(Inventory::new(vec![hash]), Err(Error::BadModuleHash { .. })));
    }
}

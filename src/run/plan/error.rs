//! Why there is no plan.

use super::{PLAN_BYTES_MAX, SCHEMA};
use crate::run::inventory;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The inventory.
    #[error(transparent)]
    Inventory(#[from] inventory::Error),
    /// The name of the deployment.
    #[error("{0}")]
    Deployment(String),
    /// No member has this identity or role.
    #[error("no member has the identity or role {selector:?}; there are: {}", .known.join(", "))]
    UnknownSelector {
        /// What was given.
        selector: String,
        /// Identities and roles that exist.
        known: Vec<String>,
    },
    /// Several members have this role.
    #[error("the role {selector:?} is that of several members: {}", .matches.join(", "))]
    AmbiguousSelector {
        /// What was given.
        selector: String,
        /// The members.
        matches: Vec<String>,
    },
    /// The scope needs a member.
    #[error("the scope {scope} needs a member: give its identity or role")]
    NoSelector {
        /// The scope.
        scope: &'static str,
    },
    /// The scope takes no member.
    #[error("the scope {scope} selects no single member, but {selector:?} was given")]
    NeedlessSelector {
        /// The scope.
        scope: &'static str,
        /// What was given.
        selector: String,
    },
    /// The root is in the scope that must not hold it.
    #[error(
        "{root} is the root of the deployment: it is backed up only in the scope maintenance-root"
    )]
    RootSelected {
        /// The root.
        root: String,
    },
    /// It is not clear which member is the root.
    #[error("several members have no parent ({}): say which one is the root", .members.join(", "))]
    AmbiguousRoot {
        /// Members without a parent.
        members: Vec<String>,
    },
    /// It is larger than what a journal holds.
    #[error("the plan has {bytes} bytes, at most {PLAN_BYTES_MAX} allowed: choose a smaller scope")]
    TooLarge {
        /// How large it is, in bytes of JSON.
        bytes: usize,
    },
    /// Nothing is left.
    #[error("the scope {scope} leaves no members")]
    NoTargets {
        /// The scope.
        scope: &'static str,
    },
    /// The plan was written by a newer version.
    #[error("the plan has the schema {schema:?}; this program reads {SCHEMA:?}")]
    Newer {
        /// Its schema.
        schema: String,
    },
    /// The plan is no plan.
    #[error("the plan cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The plan is not what its own request gives.
    #[error("the plan was edited: its {part} are not what its request and inventory give")]
    Edited {
        /// What differs.
        part: &'static str,
    },
}

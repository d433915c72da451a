//! Facts: what a generation's manifest keeps of the deployment that it was made of, beside the
//! artifacts: roles, parents, topology, snapshots. Kept as JSON in the extension
//! [`EXTENSION`] of the generation manifest; see "Facts of a deployment" in `store-format.md`.

use serde::{Deserialize, Serialize};

use super::versioned;
use crate::store::Extension;

/// Name of the extension.
pub const EXTENSION: &str = "strongroom.deployment";
/// The schema that is written, and the newest that is read.
pub const SCHEMA: &str = "strongroom.deployment/1";

/// Which members a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// One member.
    Member,
    /// One member and all below it.
    Subtree,
    /// All but the root.
    NonRootDeployment,
    /// All, the root included.
    MaintenanceRoot,
}

/// What is done so that the members' snapshots belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quiescence {
    /// All are stopped before the first snapshot; nothing else is coordinated.
    #[default]
    CrashConsistent,
    /// The root has coordinated it.
    RootCoordinated,
    /// The application says that it is quiet.
    AppQuiesced,
}

/// Whether a member may be restored under another identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Only under its own.
    Fixed,
    /// Under any.
    #[default]
    Relocatable,
}

/// A snapshot as the service states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The service's name for it.
    pub id: String,
    /// When it was taken, in nanoseconds since 1970 by the service's clock, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<u64>,
    /// Its size in bytes by the service's account, if it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

/// One member of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberFacts {
    /// Its identity, which is its name in the generation.
    pub id: String,
    /// Its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What sort of thing it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The member above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its depth in the whole inventory, 0 for a member without a parent.
    pub depth: u32,
    /// Whether it may be restored under another identity.
    pub identity: Identity,
    /// SHA-256 of its code, lowercase hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_hash: Option<String>,
    /// The snapshot that its artifact is of; `None` if it was read in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// Members whose snapshots belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its name.
    pub id: String,
    /// Whether it is a subtree with one root (else a single member).
    pub subtree: bool,
    /// Its members, by identity.
    pub members: Vec<String>,
}

/// What is known of a deployment at the time of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentFacts {
    /// [`SCHEMA`].
    pub schema: String,
    /// The run that made the generation; for an import, what names the imported backup.
    pub run: String,
    /// What drives the members: `dir`, `command`, `icp` or a library user's name.
    pub executor: String,
    /// The network or environment that the members live in; empty if that means nothing.
    pub environment: String,
    /// The root of the deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Which members were wanted.
    pub scope: Scope,
    /// The member that was selected, for the scopes that select one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<String>,
    /// How they were quieted.
    pub quiescence: Quiescence,
    /// Topology hash of the inventory when the plan was made, and again right before the first stop:
    /// they are equal, or there is no generation.
    pub topology_hash: String,
    /// The members.
    pub members: Vec<MemberFacts>,
    /// What belongs together.
    pub units: Vec<Unit>,
}

/// Why facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Written by a newer version.
    #[error("the deployment's facts have the schema {schema:?}; this program reads {SCHEMA:?}")]
    Newer {
        /// Their schema.
        schema: String,
    },
    /// Not what they should be.
    #[error("the deployment's facts cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

impl DeploymentFacts {
    /// Returns the facts as an extension of a generation manifest.
    ///
    /// # Panics
    /// Never: every value of this type is JSON.
    #[must_use]
    pub fn to_extension(&self) -> Extension {
        let value = serde_json::to_vec(self).expect("facts are JSON");
        Extension { name: EXTENSION.to_owned(), value }
    }

    /// Finds the facts among a generation's extensions; `None` if it has none, as one that was made
    /// without a runner.
    ///
    /// # Errors
    /// Every [`Error`].
    pub fn find(extensions: &[Extension]) -> Result<Option<Self>, Error> {
        let Some(extension) = extensions.iter().find(|extension| extension.name == EXTENSION)
        else {
            return Ok(None);
        };
        let facts = versioned::parse(&extension.value, SCHEMA)?;
        facts.map(Some).map_err(|schema| Error::Newer { schema })
    }

    /// Returns the facts of a member.
    #[must_use]
    pub fn member(&self, id: &str) -> Option<&MemberFacts> {
        self.members.iter().find(|member| member.id == id)
    }
}

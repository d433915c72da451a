//! Plan: what a backup run does, in order. A plan is data: it is computed from an inventory and a
//! request, kept in the run's journal, and computed again when the run is resumed; a plan that
//! differs from what its own request gives was edited and is refused.

mod error;
mod select;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::facts::{Identity, Quiescence, Scope};
use super::inventory::{Inventory, Row};
use super::ledger::{self, Step};
use super::topology::topology_hash;
use super::versioned;
use crate::digest::{Algorithm, Digest};
use crate::limits::RECORD_BYTES_MAX;
use crate::store::parse_label;
pub use error::Error;
use select::{root_of, selected_of};

/// The schema that is written, and the only one that is read.
pub const SCHEMA: &str = "strongroom.plan/1";

/// Largest plan, in bytes of JSON: it is one record of a journal, and half of what one can hold.
pub const PLAN_BYTES_MAX: usize = RECORD_BYTES_MAX / 2;

/// How much must be known of the rights over the members before anything is done to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityNeeded {
    /// The service has shown them.
    #[default]
    Proven,
    /// The configuration's word is enough.
    Declared,
}

/// What is asked for: everything that a plan is computed from beside the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The deployment.
    pub deployment: String,
    /// The executor's name.
    pub executor: String,
    /// The network or environment of the members.
    pub environment: String,
    /// Which members.
    pub scope: Scope,
    /// The member that is selected, by identity or by a role that only one has.
    pub selector: Option<String>,
    /// The root of the deployment; by default the only member without a parent.
    pub root: Option<String>,
    /// How the members are quieted.
    pub quiescence: Quiescence,
    /// The algorithm of the artifacts' checksums: `blake3` or `sha256`.
    pub checksum: Checksum,
    /// How much must be known of the rights over the members.
    pub authority: AuthorityNeeded,
    /// Members that may be restored only under their own identity.
    pub fixed: Vec<String>,
    /// Whether the members make snapshots: then they are started before these are downloaded, and
    /// else only after they have been read.
    pub snapshots: bool,
}

/// Name of a checksum's algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// BLAKE3-256.
    #[default]
    Blake3,
    /// SHA-256.
    Sha256,
}

impl From<Checksum> for Algorithm {
    fn from(checksum: Checksum) -> Self {
        match checksum {
            Checksum::Blake3 => Self::Blake3,
            Checksum::Sha256 => Self::Sha256,
        }
    }
}

/// A member that the plan takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The member.
    #[serde(flatten)]
    pub row: TargetRow,
    /// Its depth in the whole inventory.
    pub depth: u32,
    /// Whether it may be restored under another identity.
    pub identity: Identity,
}

/// The member of a target. (A type of its own, because `flatten` and `deny_unknown_fields` exclude
/// each other in one type.)
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRow {
    /// Its identity.
    pub id: String,
    /// Its role.
    pub role: Option<String>,
    /// Its kind.
    pub kind: Option<String>,
    /// The member above it.
    pub parent: Option<String>,
    /// The hash of its code that is expected.
    pub module_hash: Option<String>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Compares the live topology with the plan's.
    ValidateTopology,
    /// Asks for the right to stop and start.
    ValidateControlAuthority,
    /// Asks for the right to read snapshots.
    ValidateSnapshotReadAuthority,
    /// Accepts how the members are quieted.
    ValidateQuiescencePolicy,
    /// Stops a member.
    Stop,
    /// Makes a member's snapshot.
    CreateSnapshot,
    /// Starts a member.
    Start,
    /// Fetches a member's snapshot.
    DownloadSnapshot,
    /// Ingests it and reads it back.
    VerifyArtifact,
    /// Makes the generation visible.
    FinalizeManifest,
}

impl OperationKind {
    /// Says whether it changes something at the service.
    #[must_use]
    pub fn is_mutating(self) -> bool {
        matches!(self, Self::Stop | Self::CreateSnapshot | Self::Start)
    }
}

impl Step for OperationKind {
    fn word(self) -> &'static str {
        match self {
            Self::ValidateTopology => "validate-topology",
            Self::ValidateControlAuthority => "validate-control-authority",
            Self::ValidateSnapshotReadAuthority => "validate-snapshot-read-authority",
            Self::ValidateQuiescencePolicy => "validate-quiescence-policy",
            Self::Stop => "stop",
            Self::CreateSnapshot => "snapshot",
            Self::Start => "start",
            Self::DownloadSnapshot => "download",
            Self::VerifyArtifact => "verify",
            Self::FinalizeManifest => "finalize-manifest",
        }
    }

    fn is_transfer(self) -> bool {
        matches!(self, Self::DownloadSnapshot | Self::VerifyArtifact)
    }
}

/// One step.
pub type Operation = ledger::Operation<OperationKind>;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// BLAKE3 of the plan's JSON with this field empty.
    pub id: String,
    /// What was asked for.
    pub request: Request,
    /// All members of the deployment as they were known, breadth first.
    pub inventory: Vec<Row>,
    /// Topology hash of the inventory.
    pub topology_hash: String,
    /// The root of the deployment.
    pub root: String,
    /// The member that was selected.
    pub selected: Option<String>,
    /// The members that are backed up.
    pub targets: Vec<Target>,
    /// What is done, in order: 5 + 5 for every target.
    pub operations: Vec<Operation>,
}

impl Scope {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Subtree => "subtree",
            Self::NonRootDeployment => "non-root-deployment",
            Self::MaintenanceRoot => "maintenance-root",
        }
    }
}

impl Plan {
    /// Computes a plan.
    ///
    /// # Errors
    /// Every [`Error`] but those of reading.
    pub fn build(request: Request, inventory: &Inventory) -> Result<Self, Error> {
        parse_label("deployment", &request.deployment)
            .map_err(|error| Error::Deployment(error.to_string()))?;
        let root = root_of(&request, inventory)?;
        let selected = selected_of(&request, inventory, &root)?;
        let depths: HashMap<&str, u32> =
            inventory.with_depths().map(|(row, depth)| (row.id.as_str(), depth)).collect();
        let rows: Vec<&Row> = match (request.scope, &selected) {
            (Scope::Member, Some(id)) => {
                inventory.get(id).into_iter().map(|(row, _)| row).collect()
            }
            (Scope::Subtree, Some(id)) => inventory.subtree(id),
            (Scope::NonRootDeployment, _) => {
                inventory.rows().iter().filter(|row| row.id != root).collect()
            }
            _ => inventory.rows().iter().collect(),
        };
        if rows.is_empty() {
            return Err(Error::NoTargets { scope: request.scope.name() });
        }
        let targets: Vec<Target> =
            rows.into_iter().map(|row| target(row, &depths, &request)).collect();
        let mut plan = Self {
            schema: SCHEMA.to_owned(),
            id: String::new(),
            topology_hash: topology_hash(inventory.rows()).hash,
            inventory: inventory.rows().to_vec(),
            root,
            selected,
            operations: operations(&targets, request.snapshots),
            targets,
            request,
        };
        let json = serde_json::to_vec(&plan)?;
        if json.len() > PLAN_BYTES_MAX {
            return Err(Error::TooLarge { bytes: json.len() });
        }
        plan.id = Digest::of(&json).to_hex();
        Ok(plan)
    }

    /// Reads a plan and computes it again from its own request and inventory.
    ///
    /// # Errors
    /// It is no plan, of a newer version, or was edited.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let plan: Self =
            versioned::parse(json, SCHEMA)?.map_err(|schema| Error::Newer { schema })?;
        plan.check()?;
        Ok(plan)
    }

    /// Computes the plan again and compares.
    ///
    /// # Errors
    /// [`Error::Edited`], or what [`Plan::build`] says.
    pub fn check(&self) -> Result<(), Error> {
        let inventory = Inventory::new(self.inventory.clone())?;
        let again = Self::build(self.request.clone(), &inventory)?;
        let edited = |part| Err(Error::Edited { part });
        if again.inventory != self.inventory || again.topology_hash != self.topology_hash {
            return edited("inventory and topology hash");
        }
        if again.targets != self.targets
            || again.root != self.root
            || again.selected != self.selected
        {
            return edited("targets");
        }
        if again.operations != self.operations {
            return edited("operations");
        }
        if again.id == self.id { Ok(()) } else { edited("contents and identity") }
    }

    /// Returns a target.
    #[must_use]
    pub fn target(&self, id: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.row.id == id)
    }
}

impl Target {
    /// Returns the member as executors know it.
    #[must_use]
    pub fn member(&self) -> Row {
        let TargetRow { id, role, kind, parent, module_hash } = self.row.clone();
        Row { id, role, kind, parent, module_hash }
    }
}

fn target(row: &Row, depths: &HashMap<&str, u32>, request: &Request) -> Target {
    let Row { id, role, kind, parent, module_hash } = row.clone();
    let depth = depths.get(id.as_str()).copied().unwrap_or_default();
    let identity =
        if request.fixed.contains(&id) { Identity::Fixed } else { Identity::Relocatable };
    Target { row: TargetRow { id, role, kind, parent, module_hash }, depth, identity }
}

/// Lists the operations: validations, stops from the top down, snapshots, starts in reverse, then
/// download and verification of each, and the end. Without snapshots the starts come after the
/// verifications.
fn operations(targets: &[Target], snapshots: bool) -> Vec<Operation> {
    use OperationKind as Kind;
    let mut top_down: Vec<&Target> = targets.iter().collect();
    top_down.sort_by(|a, b| (a.depth, &a.row.id).cmp(&(b.depth, &b.row.id)));
    let each = |kind| top_down.iter().map(move |target| (kind, Some(target.row.id.as_str())));
    let starts: Vec<_> = each(Kind::Start).rev().collect();
    let transfers = targets.iter().flat_map(|target| {
        let id = Some(target.row.id.as_str());
        [(Kind::DownloadSnapshot, id), (Kind::VerifyArtifact, id)]
    });
    let validations = vec![
        (Kind::ValidateTopology, None),
        (Kind::ValidateControlAuthority, None),
        (Kind::ValidateSnapshotReadAuthority, None),
        (Kind::ValidateQuiescencePolicy, None),
    ];
    let mut phases =
        vec![validations, each(Kind::Stop).collect(), each(Kind::CreateSnapshot).collect(), starts];
    phases.insert(if snapshots { 4 } else { 3 }, transfers.collect());
    phases.push(vec![(Kind::FinalizeManifest, None)]);
    ledger::number(phases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, parent: Option<&str>, role: &str) -> Row {
        let (parent, role) = (parent.map(Into::into), Some(role.into()));
        Row { id: id.into(), parent, role, ..Row::default() }
    }

    fn fleet() -> Inventory {
        Inventory::new(vec![
            row("root", None, "root"),
            row("b", Some("root"), "shard"),
            row("a", Some("root"), "shard"),
            row("leaf", Some("a"), "index"),
        ])
        .unwrap()
    }

    fn request(scope: Scope, selector: Option<&str>) -> Request {
        Request {
            deployment: "orders".into(),
            executor: "icp".into(),
            environment: "local".into(),
            scope,
            selector: selector.map(Into::into),
            root: None,
            quiescence: Quiescence::CrashConsistent,
            checksum: Checksum::Sha256,
            authority: AuthorityNeeded::Proven,
            fixed: vec!["root".into()],
            snapshots: true,
        }
    }

    fn ids(plan: &Plan) -> Vec<&str> {
        plan.targets.iter().map(|target| target.row.id.as_str()).collect()
    }

    #[test]
    fn scopes_take_what_they_say() {
        let build = |scope, selector| Plan::build(request(scope, selector), &fleet());
        assert_eq!(ids(&build(Scope::Member, Some("index")).unwrap()), ["leaf"]);
        assert_eq!(ids(&build(Scope::Subtree, Some("a")).unwrap()), ["a", "leaf"]);
        let all_but_root = build(Scope::NonRootDeployment, None).unwrap();
        assert_eq!(ids(&all_but_root), ["b", "a", "leaf"]);
        let all = build(Scope::MaintenanceRoot, None).unwrap();
        assert_eq!(ids(&all), ["root", "b", "a", "leaf"]);
        assert_eq!(all.operations.len(), 5 + 5 * 4);
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let build = |scope, selector| Plan::build(request(scope, selector), &fleet()).unwrap_err();
        let ambiguous = build(Scope::Member, Some("shard"));
        assert!(
            matches!(ambiguous, Error::AmbiguousSelector { ref matches, .. } if matches.len() == 2)
        );
        assert!(matches!(build(Scope::Member, Some("x")), Error::UnknownSelector { .. }));
        assert!(matches!(build(Scope::Member, None), Error::NoSelector { .. }));
        assert!(matches!(build(Scope::Subtree, Some("root")), Error::RootSelected { .. }));
        assert!(matches!(
            build(Scope::NonRootDeployment, Some("a")),
            Error::NeedlessSelector { .. }
        ));
    }

    #[test]
    fn members_stop_from_the_top_and_start_from_the_bottom() {
        let plan = Plan::build(request(Scope::MaintenanceRoot, None), &fleet()).unwrap();
        let of = |kind| {
            let found = plan.operations.iter().filter(|operation| operation.kind == kind);
            found.map(|operation| operation.target.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(OperationKind::Stop), ["root", "a", "b", "leaf"]);
        assert_eq!(of(OperationKind::CreateSnapshot), ["root", "a", "b", "leaf"]);
        assert_eq!(of(OperationKind::Start), ["leaf", "b", "a", "root"]);
        let numbers: Vec<_> = plan.operations.iter().map(|operation| operation.sequence).collect();
        assert_eq!(numbers, (0..25).collect::<Vec<_>>());
    }

    #[test]
    fn members_without_snapshots_start_only_after_they_were_read() {
        let mut request = request(Scope::MaintenanceRoot, None);
        request.snapshots = false;
        let plan = Plan::build(request, &fleet()).unwrap();
        let last = |kind| plan.operations.iter().rposition(|operation| operation.kind == kind);
        assert!(last(OperationKind::VerifyArtifact) < last(OperationKind::Start));
        assert!(last(OperationKind::Start) < last(OperationKind::FinalizeManifest));
    }

    #[test]
    fn an_edited_plan_is_refused() {
        let plan = Plan::build(request(Scope::MaintenanceRoot, None), &fleet()).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(Plan::parse(json.as_bytes()).unwrap(), plan);
        let edits = [
            ("\"stop-root\"", "\"stop-toor\""),
            ("\"depth\":2", "\"depth\":3"),
            ("\"crash-consistent\"", "\"app-quiesced\""),
            ("\"role\":\"index\"", "\"role\":\"other\""),
            (&plan.id[..8], "00000000"),
        ];
        for (from, to) in edits {
            assert!(json.contains(from), "{from}");
            let error = Plan::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Edited { .. }), "{from}: {error}");
        }
        let unknown = json.replacen("\"id\"", "\"extra\":1,\"id\"", 1);
        assert!(matches!(Plan::parse(unknown.as_bytes()), Err(Error::Json(_))));
        let newer = json.replacen("plan/1", "plan/2", 1);
        assert!(matches!(Plan::parse(newer.as_bytes()), Err(Error::Newer { .. })));
    }
}

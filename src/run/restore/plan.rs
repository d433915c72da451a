//! Restore plan: what bringing a generation back into a service does, in order. It is computed from
//! the generation's manifest and facts and a request, kept in the run's journal, and computed again
//! whenever it is read: a plan that differs from what its own request and members give was edited
//! and is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::map::check_mapping;
use super::source::Source;
use crate::digest::Digest;
use crate::run::facts::{self, Identity, Snapshot};
use crate::run::inventory::Row;
use crate::run::ledger::{self, Step};
use crate::run::plan::AuthorityNeeded;
use crate::run::topology::topology_hash;
use crate::run::versioned;
use crate::store::{self, parse_label};

/// The schema that is written, and the only one that is read.
pub const SCHEMA: &str = "strongroom.restore-plan/1";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The deployment that the generation is of.
    pub deployment: String,
    /// The generation's number.
    pub generation: u64,
    /// The generation's manifest, 64 hexadecimal digits.
    pub manifest: String,
    /// The only member that is restored; else all are.
    pub member: Option<String>,
    /// The deployment whose members are restored into: the same one, as a rule.
    pub into: String,
    /// The executor's name.
    pub executor: String,
    /// The network or environment of the members that are restored into.
    pub environment: String,
    /// How much must be known of the rights over them.
    pub authority: AuthorityNeeded,
    /// For every member of the generation, the member that it is restored into.
    pub mapping: BTreeMap<String, String>,
}

/// A member of the generation, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its identity in the generation.
    pub source: String,
    /// The member that it is restored into.
    pub target: String,
    /// Its role.
    pub role: Option<String>,
    /// Its kind.
    pub kind: Option<String>,
    /// The member above it, by its identity in the generation.
    pub parent: Option<String>,
    /// Its depth in the inventory that was backed up.
    pub depth: u32,
    /// Whether it may be restored into another member.
    pub identity: Identity,
    /// SHA-256 of its code, which is expected after the restore; if it is known.
    pub module_hash: Option<String>,
    /// The snapshot that its artifact is of, if it was one.
    pub snapshot: Option<Snapshot>,
    /// The artifact's manifest, 64 hexadecimal digits.
    pub artifact: String,
    /// The algorithm of the checksum: `blake3` or `sha256`.
    pub algorithm: String,
    /// The artifact's checksum, 64 hexadecimal digits.
    pub checksum: String,
    /// The artifact's files.
    pub files: u64,
    /// The artifact's content in bytes.
    pub bytes: u64,
}

/// What an operation of a restore does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Asks for what has to be so before anything is done: the generation's facts and manifests,
    /// the topology of the members that are restored into, the rights over them.
    Validate,
    /// Brings an artifact from the store into the staging area.
    Fetch,
    /// Uploads it to the service.
    Upload,
    /// Stops a member.
    Stop,
    /// Loads the uploaded snapshot into a stopped member.
    Load,
    /// Starts a member.
    Start,
    /// Asks whether it runs, with the right code.
    CheckMember,
    /// Compares the live topology with the mapped one.
    CheckDeployment,
}

impl Step for OperationKind {
    fn word(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Fetch => "fetch",
            Self::Upload => "upload",
            Self::Stop => "stop",
            Self::Load => "load",
            Self::Start => "start",
            Self::CheckMember => "check-member",
            Self::CheckDeployment => "check-deployment",
        }
    }

    fn is_transfer(self) -> bool {
        matches!(self, Self::Fetch | Self::Upload)
    }
}

/// One step of a restore; its member is the one that is restored into.
pub type Operation = ledger::Operation<OperationKind>;

/// A restore plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// BLAKE3 of the plan's JSON with this field empty.
    pub id: String,
    /// What was asked for.
    pub request: Request,
    /// Topology hash of the deployment when it was backed up.
    pub source_topology_hash: String,
    /// Topology hash of the members that are restored into, as they shall be afterwards.
    pub topology_hash: String,
    /// What is restored, parents first.
    pub members: Vec<Member>,
    /// What is done, in order: 2 and 6 for every member.
    pub operations: Vec<Operation>,
}

/// Why there is no restore plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The generation cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The generation was not made of a service.
    #[error("{generation} holds nothing about a service: it was made of directories, not by a run")]
    NoFacts {
        /// The generation.
        generation: String,
    },
    /// Its facts cannot be read.
    #[error("{generation}: {source}")]
    Facts {
        /// The generation.
        generation: String,
        /// What is wrong.
        source: facts::Error,
    },
    /// It lacks members, or its facts speak of others.
    #[error("{generation} does not hold all of its members: {reason}")]
    Incomplete {
        /// The generation.
        generation: String,
        /// What is wrong.
        reason: String,
    },
    /// A path inside of a member.
    #[error("{path}: a member goes back into the service as a whole")]
    Path {
        /// What was asked for.
        path: String,
    },
    /// The map names a member that is not restored.
    #[error("the map names {source_id}, which is none of: {}", .known.join(", "))]
    UnknownSource {
        /// What was given.
        source_id: String,
        /// The members that are restored.
        known: Vec<String>,
    },
    /// The map leaves members out.
    #[error("the map does not say where these go: {}", .members.join(", "))]
    Unmapped {
        /// The members.
        members: Vec<String>,
    },
    /// Two members would go into one.
    #[error("{} would all be restored into {target}", .sources.join(" and "))]
    SameTarget {
        /// The member that is restored into.
        target: String,
        /// The members of the generation.
        sources: Vec<String>,
    },
    /// A member that may be restored only into itself.
    #[error("{member} has a fixed identity and cannot be restored into {target}")]
    Fixed {
        /// The member.
        member: String,
        /// What the map says.
        target: String,
    },
    /// An identity that is none.
    #[error("the map: {0}")]
    Target(String),
    /// The service takes nothing back.
    #[error("{executor} cannot upload and load snapshots")]
    Executor {
        /// The executor.
        executor: String,
    },
    /// The plan was written by a newer version.
    #[error("the restore plan has the schema {schema:?}; this program reads {SCHEMA:?}")]
    Newer {
        /// Its schema.
        schema: String,
    },
    /// The plan is no plan.
    #[error("the restore plan cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The plan is not what its own request gives.
    #[error("the restore plan was edited: its {part} are not what its request and members give")]
    Edited {
        /// What differs.
        part: &'static str,
    },
    /// The plan is not what the generation gives.
    #[error("the restore plan was made of another generation than the {generation} of this store")]
    OtherGeneration {
        /// The generation.
        generation: String,
    },
}

impl Plan {
    /// Computes a plan.
    ///
    /// # Errors
    /// The mapping is not one of all members to as many others, or moves one that is fixed.
    pub fn build(request: Request, source: &Source) -> Result<Self, Error> {
        parse_label("deployment", &request.into)
            .map_err(|error| Error::Target(error.to_string()))?;
        check_mapping(&request.mapping, source)?;
        let mut members = source.members.clone();
        for member in &mut members {
            member.target.clone_from(&request.mapping[&member.source]);
        }
        members.sort_by(|a, b| (a.depth, &a.source).cmp(&(b.depth, &b.source)));
        let mut plan = Self {
            schema: SCHEMA.to_owned(),
            id: String::new(),
            source_topology_hash: source.topology_hash.clone(),
            topology_hash: String::new(),
            operations: operations(&members),
            members,
            request,
        };
        plan.topology_hash = topology_hash(&plan.rows()).hash;
        plan.id = plan.digest().to_hex();
        Ok(plan)
    }

    /// Reads a plan and computes it again from its own request and members.
    ///
    /// # Errors
    /// It is no plan, of a newer version, or was edited.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let plan: Self =
            versioned::parse(json, SCHEMA)?.map_err(|schema| Error::Newer { schema })?;
        plan.check()?;
        Ok(plan)
    }

    /// Computes the plan again from its own request and members, and compares.
    ///
    /// # Errors
    /// [`Error::Edited`], or what [`Plan::build`] says.
    pub fn check(&self) -> Result<(), Error> {
        let again = Self::build(self.request.clone(), &Source::of_plan(self))?;
        let edited = |part| Err(Error::Edited { part });
        if again.members != self.members {
            return edited("members");
        }
        if again.operations != self.operations {
            return edited("operations");
        }
        if again.topology_hash != self.topology_hash {
            return edited("members and topology hash");
        }
        if again == *self { Ok(()) } else { edited("contents and identity") }
    }

    /// Computes the plan again from what the store holds of the generation, and compares.
    ///
    /// # Errors
    /// [`Error::OtherGeneration`], or the generation cannot be read.
    pub fn check_source(&self, source: &Source) -> Result<(), Error> {
        let request = &self.request;
        let same = source.manifest.to_hex() == request.manifest
            && source.generation == request.generation
            && source.deployment == request.deployment;
        if same && Self::build(request.clone(), source)? == *self {
            return Ok(());
        }
        Err(Error::OtherGeneration { generation: self.generation_name() })
    }

    fn digest(&self) -> Digest {
        let plain = Self { id: String::new(), ..self.clone() };
        Digest::of(&serde_json::to_vec(&plain).unwrap_or_default())
    }

    /// Returns `name@gN`.
    #[must_use]
    pub fn generation_name(&self) -> String {
        format!("{}@g{}", self.request.deployment, self.request.generation)
    }

    /// Returns what is restored into a member.
    #[must_use]
    pub fn member(&self, target: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.target == target)
    }

    /// Returns the members that are restored into, as executors know them, parents first: with the
    /// mapped parents and the code that they shall have.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        self.members.iter().map(|member| self.row(member)).collect()
    }

    /// Returns the member that one is restored into, as executors know it.
    #[must_use]
    pub fn row(&self, member: &Member) -> Row {
        Row {
            id: member.target.clone(),
            role: member.role.clone(),
            kind: member.kind.clone(),
            parent: self.parent_of(member).flatten(),
            module_hash: member.module_hash.clone(),
        }
    }

    /// Returns the parent that a member has after the restore; `None` if nothing says which: it was
    /// moved, and its parent is not restored.
    #[must_use]
    pub fn parent_of(&self, member: &Member) -> Option<Option<String>> {
        let Some(parent) = &member.parent else { return Some(None) };
        match self.request.mapping.get(parent) {
            Some(mapped) => Some(Some(mapped.clone())),
            None if member.source == member.target => Some(Some(parent.clone())),
            None => None,
        }
    }
}

/// Lists the operations: the questions; each member fetched and uploaded; stops from the top down,
/// loads, starts in reverse; each member checked, and all of them together.
fn operations(members: &[Member]) -> Vec<Operation> {
    use OperationKind as Kind;
    let each = |kind| members.iter().map(move |member| (kind, Some(member.target.as_str())));
    let transfers = members.iter().flat_map(|member| {
        let target = Some(member.target.as_str());
        [(Kind::Fetch, target), (Kind::Upload, target)]
    });
    ledger::number(vec![
        vec![(Kind::Validate, None)],
        transfers.collect(),
        each(Kind::Stop).collect(),
        each(Kind::Load).collect(),
        each(Kind::Start).rev().collect(),
        each(Kind::CheckMember).collect(),
        vec![(Kind::CheckDeployment, None)],
    ])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `root` with `a` and `b` below it, and `leaf` below `a`; `root` is fixed.
    fn source() -> Source {
        let member = |id: &str, parent: Option<&str>, depth| Member {
            source: id.into(),
            target: id.into(),
            role: Some(format!("role of {id}")),
            kind: None,
            parent: parent.map(Into::into),
            depth,
            identity: if id == "root" { Identity::Fixed } else { Identity::Relocatable },
            module_hash: Some("0".repeat(64)),
            snapshot: None,
            artifact: "1".repeat(64),
            algorithm: "sha256".into(),
            checksum: "2".repeat(64),
            files: 1,
            bytes: 2,
        };
        Source::for_tests(vec![
            member("leaf", Some("a"), 2),
            member("b", Some("root"), 1),
            member("a", Some("root"), 1),
            member("root", None, 0),
        ])
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    fn build(pairs: &[(&str, &str)]) -> Result<Plan, Error> {
        let source = source();
        let request = Request {
            deployment: source.deployment.clone(),
            generation: source.generation,
            manifest: source.manifest.to_hex(),
            member: None,
            into: "copy".into(),
            executor: "icp".into(),
            environment: "local".into(),
            authority: AuthorityNeeded::Proven,
            mapping: map(pairs),
        };
        Plan::build(request, &source)
    }

    const CLONE: [(&str, &str); 4] = [("root", "root"), ("a", "x"), ("b", "y"), ("leaf", "z")];

    /// A plan that moves all members but the root.
    pub(in crate::run::restore) fn clone_plan() -> Plan {
        build(&CLONE).unwrap()
    }

    #[test]
    fn members_go_parents_first_and_start_from_the_bottom() {
        let plan = build(&CLONE).unwrap();
        let of = |kind| {
            let found = plan.operations.iter().filter(|operation| operation.kind == kind);
            found.map(|operation| operation.target.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(OperationKind::Fetch), ["root", "x", "y", "z"]);
        assert_eq!(of(OperationKind::Stop), ["root", "x", "y", "z"]);
        assert_eq!(of(OperationKind::Load), ["root", "x", "y", "z"]);
        assert_eq!(of(OperationKind::Start), ["z", "y", "x", "root"]);
        assert_eq!(plan.operations.len(), 2 + 6 * 4);
        assert_eq!(plan.operations[1].id, "fetch-root");
        assert_eq!(plan.operations[2].id, "upload-root");
        let last = plan.operations.last().unwrap();
        assert_eq!((last.id.as_str(), last.sequence), ("check-deployment", 25));
    }

    #[test]
    fn parents_are_mapped_with_their_members() {
        let plan = build(&CLONE).unwrap();
        let parents: Vec<_> = plan.rows().into_iter().map(|row| (row.id, row.parent)).collect();
        let own = |text: &str| Some(text.to_owned());
        let expected = [("root", None), ("x", own("root")), ("y", own("root")), ("z", own("x"))];
        assert_eq!(parents, expected.map(|(id, parent)| (id.to_owned(), parent)));
        // Of a member that was moved without its parent nobody knows where it belongs.
        let orphan = Member { parent: Some("elsewhere".into()), ..plan.members[1].clone() };
        assert_eq!(plan.parent_of(&orphan), None);
        let unmoved = Member { target: orphan.source.clone(), ..orphan };
        assert_eq!(plan.parent_of(&unmoved), Some(own("elsewhere")));
    }

    #[test]
    fn a_map_takes_each_member_to_one_of_its_own() {
        let with = |at: usize, pair: (&'static str, &'static str)| {
            let mut pairs = CLONE;
            pairs[at] = pair;
            build(&pairs).unwrap_err()
        };
        assert!(
            matches!(with(1, ("c", "x")), Error::UnknownSource { source_id, .. } if source_id == "c")
        );
        assert!(
            matches!(with(1, ("a", "y")), Error::SameTarget { sources, .. } if sources == ["a", "b"])
        );
        assert!(matches!(with(0, ("root", "w")), Error::Fixed { .. }));
        assert!(matches!(with(1, ("a", "x/y")), Error::Target(_)));
        assert!(
            matches!(build(&CLONE[..3]), Err(Error::Unmapped { members }) if members == ["leaf"])
        );
        // Members may change places.
        assert!(build(&[("root", "root"), ("a", "b"), ("b", "a"), ("leaf", "leaf")]).is_ok());
    }

    #[test]
    fn an_edited_plan_is_refused() {
        let plan = build(&CLONE).unwrap();
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(Plan::parse(json.as_bytes()).unwrap(), plan);
        let edits = [
            ("\"load-x\"", "\"load-q\""),
            ("\"depth\":2", "\"depth\":0"),
            ("\"bytes\":2", "\"bytes\":3"),
            ("\"into\":\"copy\"", "\"into\":\"orders\""),
            ("\"a\":\"x\"", "\"a\":\"w\""),
            ("\"proven\"", "\"declared\""),
            (&plan.topology_hash[..8], "00000000"),
            (&plan.id[..8], "00000000"),
        ];
        for (from, to) in edits {
            assert!(json.contains(from), "{from}");
            let error = Plan::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Edited { .. }), "{from}: {error}");
        }
        let unknown = json.replacen("\"id\"", "\"extra\":1,\"id\"", 1);
        assert!(matches!(Plan::parse(unknown.as_bytes()), Err(Error::Json(_))));
        let newer = json.replacen("restore-plan/1", "restore-plan/2", 1);
        assert!(matches!(Plan::parse(newer.as_bytes()), Err(Error::Newer { .. })));
    }

    #[test]
    fn a_plan_of_another_generation_is_refused() {
        let plan = build(&CLONE).unwrap();
        assert!(plan.check_source(&source()).is_ok());
        let mut other = source();
        other.members[0].checksum = "3".repeat(64);
        assert!(matches!(plan.check_source(&other), Err(Error::OtherGeneration { .. })));
        let mut other = source();
        other.manifest = Digest([3; 32]);
        assert!(matches!(plan.check_source(&other), Err(Error::OtherGeneration { .. })));
    }
}

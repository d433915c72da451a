//! Source: what a generation says of itself that a restore is planned from.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::plan::{Error, Member, Plan, Request};
use crate::digest::{Digest, hex};
use crate::format::record::GenerationNumber;
use crate::run::executor::Executor;
use crate::run::facts::{DeploymentFacts, MemberFacts};
use crate::run::plan::AuthorityNeeded;
use crate::store::{self, Reference, Store, Tree, Which};

/// A generation, or one member of it, as a restore needs it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its deployment.
    pub deployment: String,
    /// Its number.
    pub generation: u64,
    /// Its manifest.
    pub manifest: Digest,
    /// Topology hash of the deployment when it was backed up.
    pub topology_hash: String,
    /// What drove the members then.
    pub executor: String,
    /// The network or environment that they were in.
    pub environment: String,
    /// Its members, each mapped to itself; those that are restored.
    pub members: Vec<Member>,
    only: Option<String>,
}

impl Source {
    /// Reads what a reference points to: a generation, or one member of it.
    ///
    /// # Errors
    /// There is no such generation, it was not made of a service, or it lacks something.
    pub fn read(store: &Store, reference: &Reference) -> Result<Self, Error> {
        let tree = store.tree(reference)?;
        let generation = tree.name();
        if !tree.path.is_empty() {
            let path = reference.path.as_deref().unwrap_or_default();
            let path = format!("{generation}:{}", String::from_utf8_lossy(path));
            return Err(Error::Path { path });
        }
        let facts = DeploymentFacts::find(&tree.manifest.extensions);
        let facts = match facts {
            Ok(Some(facts)) => facts,
            Ok(None) => return Err(Error::NoFacts { generation }),
            Err(source) => return Err(Error::Facts { generation, source }),
        };
        let missing = tree.manifest.missing.iter().map(|missing| missing.name.clone());
        let unreadable = tree.unreadable.iter().map(|(name, why)| format!("{name} ({why})"));
        let lost: Vec<String> = missing.chain(unreadable).collect();
        if !lost.is_empty() {
            let reason = format!("missing are {}", lost.join(", "));
            return Err(Error::Incomplete { generation, reason });
        }
        let incomplete = |reason| Error::Incomplete { generation: generation.clone(), reason };
        let known: HashMap<&str, &MemberFacts> =
            facts.members.iter().map(|member| (member.id.as_str(), member)).collect();
        let members = tree.members.iter().map(|member| match known.get(member.name.as_str()) {
            Some(facts) => Ok(planned(member, facts)),
            None => Err(incomplete(format!("its facts do not speak of {}", member.name))),
        });
        let members = members.collect::<Result<Vec<_>, Error>>()?;
        let whole = reference.path.is_none();
        let held: HashSet<&str> = members.iter().map(|member| member.source.as_str()).collect();
        let lacking = facts.members.iter().find(|one| whole && !held.contains(one.id.as_str()));
        if let Some(lacking) = lacking {
            let reason = format!("its facts speak of {}, which is not in it", lacking.id);
            return Err(incomplete(reason));
        }
        Ok(Self {
            only: if whole { None } else { members.first().map(|member| member.source.clone()) },
            deployment: tree.generation.deployment,
            generation: tree.generation.number.0,
            manifest: tree.generation.manifest,
            topology_hash: facts.topology_hash,
            executor: facts.executor,
            environment: facts.environment,
            members,
        })
    }

    /// Reads again what a plan was made of.
    ///
    /// # Errors
    /// As [`Source::read`], or it is not what it was.
    pub fn reread(store: &Store, plan: &Plan) -> Result<Self, Error> {
        let source = Self::read(store, &reference_of(plan))?;
        plan.check_source(&source)?;
        Ok(source)
    }

    #[cfg(test)]
    pub(super) fn for_tests(members: Vec<Member>) -> Self {
        Self {
            deployment: "orders".into(),
            generation: 3,
            manifest: Digest([7; 32]),
            topology_hash: "9".repeat(64),
            executor: "icp".into(),
            environment: "local".into(),
            members,
            only: None,
        }
    }

    /// What a plan says that the generation is: to compute the plan again from itself.
    pub(super) fn of_plan(plan: &Plan) -> Self {
        let Request { deployment, generation, manifest, member, .. } = plan.request.clone();
        Self {
            deployment,
            generation,
            // Compared with the store's when a run begins.
            manifest: manifest.parse().unwrap_or(Digest::ZERO),
            topology_hash: plan.source_topology_hash.clone(),
            executor: String::new(),
            environment: String::new(),
            members: plan.members.clone(),
            only: member,
        }
    }

    /// Plans to restore it into the members of `into` by an executor: each into the one that the
    /// map says, and without a map into itself.
    ///
    /// # Errors
    /// The service takes nothing back, or the map is refused.
    pub fn plan(
        &self,
        into: &str,
        executor: &dyn Executor,
        authority: AuthorityNeeded,
        map: Option<BTreeMap<String, String>>,
    ) -> Result<Plan, Error> {
        if !executor.capabilities().restore {
            return Err(Error::Executor { executor: executor.name().to_owned() });
        }
        let itself = |member: &Member| (member.source.clone(), member.source.clone());
        let mapping = map.unwrap_or_else(|| self.members.iter().map(itself).collect());
        let request = Request {
            deployment: self.deployment.clone(),
            generation: self.generation,
            manifest: self.manifest.to_hex(),
            member: self.only.clone(),
            into: into.to_owned(),
            executor: executor.name().to_owned(),
            environment: executor.environment().to_owned(),
            authority,
            mapping,
        };
        Plan::build(request, self)
    }
}

fn reference_of(plan: &Plan) -> Reference {
    Reference {
        deployment: plan.request.deployment.clone(),
        which: Which::Number(GenerationNumber(plan.request.generation)),
        path: plan.request.member.as_ref().map(|member| member.as_bytes().to_vec()),
    }
}

/// Opens what a plan restores.
pub(super) fn open(store: &Store, plan: &Plan) -> Result<Tree, Error> {
    let tree = store.tree(&reference_of(plan))?;
    if tree.generation.manifest.to_hex() == plan.request.manifest {
        return Ok(tree);
    }
    Err(Error::OtherGeneration { generation: plan.generation_name() })
}

/// Returns the part of an opened generation that is one member.
pub(super) fn part(tree: &Tree, plan: &Plan, member: &Member) -> Result<Tree, Error> {
    let found = tree.members.iter().find(|one| one.name == member.source);
    let Some(found) = found.filter(|found| found.id.to_hex() == member.artifact) else {
        return Err(Error::OtherGeneration { generation: plan.generation_name() });
    };
    // A clone shares the lease under which nothing of it is removed.
    let mut part = tree.clone();
    part.manifest.members.clear();
    part.members = vec![found.clone()];
    part.path.clear();
    part.unreadable.clear();
    Ok(part)
}

fn planned(member: &store::Member, facts: &MemberFacts) -> Member {
    let artifact = &member.artifact;
    Member {
        source: facts.id.clone(),
        target: facts.id.clone(),
        role: facts.role.clone(),
        kind: facts.kind.clone(),
        parent: facts.parent.clone(),
        depth: facts.depth,
        identity: facts.identity,
        module_hash: facts.module_hash.clone(),
        snapshot: facts.snapshot.clone(),
        artifact: member.id.to_hex(),
        algorithm: artifact.algorithm.name().to_owned(),
        checksum: hex(&artifact.checksum),
        files: artifact.counts.files,
        bytes: artifact.counts.bytes,
    }
}

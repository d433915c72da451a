//! What deployments may hold and what they must hold, by digests of their states.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, bail};
use strongroom::format::record::GenerationNumber;
use strongroom::store::{Progress, Reference, Scope, Store, Which};

use crate::scene::Files;

/// The digest of everything in a generation.
pub type State = blake3::Hash;

/// A generation: its deployment and number.
pub type Name = (String, u64);

/// Returns the state of members, each with its files.
pub fn state_of<'f>(members: impl IntoIterator<Item = (&'f str, &'f Files)>) -> State {
    let mut hasher = blake3::Hasher::new();
    for (member, files) in members {
        for (path, bytes) in files {
            for part in [member.as_bytes(), path.as_bytes(), bytes] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
        }
    }
    hasher.finalize()
}

/// What a store may and must hold.
#[derive(Clone, Default)]
pub struct Truth {
    /// States of a deployment that a backup was ever begun of.
    pub begun: HashSet<(String, State)>,
    /// What must be there.
    pub acknowledged: BTreeMap<Name, State>,
}

impl Truth {
    /// A backup of this state begins: from now on it may be there.
    pub fn begin(&mut self, deployment: &str, state: State) {
        self.begun.insert((deployment.to_owned(), state));
    }

    /// The backup of this state was said to be done.
    pub fn acknowledge(&mut self, deployment: &str, number: u64, state: State) {
        self.acknowledged.insert((deployment.to_owned(), number), state);
    }

    /// Lets go of all but the newest of each deployment that must be there.
    pub fn keep_newest(&mut self) {
        let newest: BTreeMap<String, u64> = self.acknowledged.keys().cloned().collect();
        self.acknowledged.retain(|(deployment, number), _| newest[deployment] == *number);
    }

    /// Says what is wrong with a store; nothing if all is well. What can be seen once must stay.
    pub fn check(&mut self, store: &Store) -> Vec<String> {
        let mut wrong = Vec::new();
        match store.verify(Scope::Full, &[], &Progress::default()) {
            Ok(report) if report.is_clean() => {}
            Ok(report) => {
                wrong.push(format!("damage: {:?} {:?}", report.damaged, report.unreadable));
            }
            Err(error) => wrong.push(format!("cannot be verified: {error}")),
        }
        match visible(store) {
            Ok(visible) => {
                wrong.extend(self.differences(&visible));
                self.acknowledged = visible;
            }
            Err(error) => wrong.push(format!("cannot be read: {error:#}")),
        }
        wrong
    }

    /// Compares with what can be seen.
    pub fn differences(&self, visible: &BTreeMap<Name, State>) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((deployment, number), state) in visible {
            if !self.begun.contains(&(deployment.clone(), *state)) {
                wrong.push(format!("{deployment}@g{number} is no state that was backed up"));
            }
        }
        for ((deployment, number), state) in &self.acknowledged {
            match visible.get(&(deployment.clone(), *number)) {
                Some(found) if found == state => {}
                Some(_) => wrong.push(format!("{deployment}@g{number} holds something else")),
                None => wrong.push(format!("{deployment}@g{number} was acknowledged and is lost")),
            }
        }
        wrong
    }
}

/// Reads every generation that can be seen.
pub fn visible(store: &Store) -> anyhow::Result<BTreeMap<Name, State>> {
    let log = store.log()?;
    if !log.damaged().is_empty() {
        bail!("damaged records: {:?}", log.damaged());
    }
    let mut found = BTreeMap::new();
    for generation in log.generations() {
        let name = (generation.deployment, generation.number.0);
        let state = read(store, &name).with_context(|| format!("{}@g{}", name.0, name.1))?;
        found.insert(name, state);
    }
    Ok(found)
}

/// Reads one generation, every byte of it.
pub fn read(store: &Store, (deployment, number): &Name) -> anyhow::Result<State> {
    let which = Which::Number(GenerationNumber(*number));
    let tree = store.tree(&Reference { deployment: deployment.clone(), which, path: None })?;
    if !tree.unreadable.is_empty() {
        bail!("members that cannot be read: {:?}", tree.unreadable);
    }
    let mut members: BTreeMap<&str, Files> = BTreeMap::new();
    for member in &tree.members {
        let files = members.entry(member.name.as_str()).or_default();
        for entry in store.entries(&member.artifact) {
            let entry = entry?;
            if let Some(content) = entry.content() {
                let mut bytes = Vec::new();
                store.write_content(content, &mut bytes)?;
                files.insert(String::from_utf8_lossy(&entry.path).into_owned(), bytes);
            }
        }
    }
    Ok(state_of(members.iter().map(|(member, files)| (*member, files))))
}

/// Returns the number of the generation in what a command printed as JSON.
pub fn number_in(printed: &str) -> anyhow::Result<u64> {
    let (_, rest) = printed.split_once("\"generation\":").context("no generation is named")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("no number in {printed:?}"))
}

//! A small service in this process: members with code and memory that run, stop, make snapshots and
//! take them back, and that go wrong where a test says so.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strongroom::digest::hex;
use strongroom::run::executor::{
    Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, State, Status,
};
use strongroom::run::facts::Snapshot;
use strongroom::run::inventory::Row;

/// What a member holds: files by name. `module` is its code.
pub type Content = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and nobody hears of it.
    LoseReply,
    /// It is not done, and nobody hears of that.
    LoseRequest,
    /// It is not done.
    Refuse,
    /// A stop that does not come to its end at once: so many questions later.
    StayStopping(u32),
    /// A load that brings other code.
    WrongCode,
    /// It is not done, and much is said about it.
    Shout,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub row: Row,
    pub content: Content,
    pub state: State,
    pub snapshots: Vec<(String, Content)>,
    /// Questions until it is stopped.
    pub stopping: u32,
}

#[derive(Debug, Default)]
struct Inside {
    members: BTreeMap<String, Member>,
    made: u64,
    faults: Vec<(String, &'static str, Fault)>,
    calls: Vec<String>,
    /// Whether the service lists its members.
    lists: bool,
    /// What members hold after a restore: none may be started while only some of them do.
    guarded: BTreeMap<String, Content>,
    violations: Vec<String>,
}

/// The service; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Service(Arc<Mutex<Inside>>);

impl Service {
    /// `root`, with `a` and `b` below it, and `leaf` below `a`; what they hold follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let service = Self::default();
        service.inside().lists = true;
        for (id, parent) in
            [("root", None), ("a", Some("root")), ("b", Some("root")), ("leaf", Some("a"))]
        {
            service.add(id, parent, content(id, seed));
        }
        service
    }

    pub fn add(&self, id: &str, parent: Option<&str>, content: Content) {
        let row = Row {
            id: id.into(),
            role: Some("shard".into()),
            parent: parent.map(Into::into),
            ..Row::default()
        };
        let member = Member { row, content, state: State::Running, snapshots: vec![], stopping: 0 };
        self.inside().members.insert(id.into(), member);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next call of `method` on `member` go wrong.
    pub fn fail(&self, member: &str, method: &'static str, fault: Fault) {
        self.inside().faults.push((member.into(), method, fault));
    }

    /// Watches that no member is started while only some hold this.
    pub fn guard(&self, contents: BTreeMap<String, Content>) {
        self.inside().guarded = contents;
    }

    pub fn violations(&self) -> Vec<String> {
        self.inside().violations.clone()
    }

    /// Makes a copy that shares nothing.
    pub fn copy(&self) -> Self {
        let inside = self.inside();
        let members = inside.members.clone();
        let guarded = inside.guarded.clone();
        let (made, lists) = (inside.made, inside.lists);
        Self(Arc::new(Mutex::new(Inside { members, made, lists, guarded, ..Inside::default() })))
    }

    pub fn hide_list(&self) {
        self.inside().lists = false;
    }

    pub fn with<T>(&self, member: &str, change: impl FnOnce(&mut Member) -> T) -> T {
        change(self.inside().members.get_mut(member).unwrap())
    }

    pub fn contents(&self) -> BTreeMap<String, Content> {
        let inside = self.inside();
        inside.members.iter().map(|(id, member)| (id.clone(), member.content.clone())).collect()
    }

    pub fn states(&self) -> Vec<(String, State)> {
        let inside = self.inside();
        inside.members.iter().map(|(id, member)| (id.clone(), member.state)).collect()
    }

    pub fn all_run(&self) -> bool {
        self.states().iter().all(|(_, state)| *state == State::Running)
    }

    /// Snapshots that are there, as member and snapshot.
    pub fn all_snapshots(&self) -> Vec<(String, String)> {
        let inside = self.inside();
        let of = |(id, member): (&String, &Member)| {
            member.snapshots.iter().map(|(name, _)| (id.clone(), name.clone())).collect::<Vec<_>>()
        };
        inside.members.iter().flat_map(of).collect()
    }

    /// The calls since the last time, as `method member`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.inside().calls)
    }

    /// Does something to a member, as the next fault for it says.
    fn act<T>(
        &self,
        member: &Row,
        method: &'static str,
        act: impl FnOnce(&mut Inside, Option<Fault>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut inside = self.inside();
        inside.calls.push(format!("{method} {}", member.id));
        if !inside.members.contains_key(&member.id) {
            return Err(Error::Unknown(format!("there is no {}", member.id)));
        }
        let at = inside.faults.iter().position(|(id, of, _)| *id == member.id && *of == method);
        let fault = at.map(|at| inside.faults.remove(at).2);
        match fault {
            Some(Fault::LoseRequest) => Err(Error::Unknown(format!("{method}: no connection"))),
            Some(Fault::Shout) => {
                Err(Error::Refused(format!("{}the end", "so much to say ".repeat(10_000))))
            }
            Some(Fault::Refuse) => Err(Error::Refused(format!("{method}: refused"))),
            Some(Fault::LoseReply) => {
                let _ = act(&mut inside, fault);
                Err(Error::Unknown(format!("{method}: the connection was lost")))
            }
            _ => act(&mut inside, fault),
        }
    }
}

/// What a member holds.
pub fn content(id: &str, seed: u64) -> Content {
    let mut seed = seed * 1000;
    seed += id.bytes().map(u64::from).sum::<u64>();
    [
        ("module".to_owned(), format!("code {id} {seed}").into_bytes()),
        ("memory".to_owned(), crate::support::noise(seed, 70_000)),
        ("deep/empty".to_owned(), Vec::new()),
    ]
    .into()
}

/// SHA-256 of a member's code.
pub fn code_of(content: &Content) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(&content["module"]))
}

fn read(dir: &Path) -> Content {
    let mut content = Content::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                content.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    content
}

fn write(dir: &Path, content: &Content) {
    for (name, bytes) in content {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn snapshot(id: &str, content: &Content) -> Snapshot {
    let bytes = content.values().map(|bytes| bytes.len() as u64).sum();
    Snapshot { id: id.into(), taken_at: None, total_bytes: Some(bytes) }
}

fn keep(inside: &mut Inside, member: &Row, content: Content) -> Snapshot {
    inside.made += 1;
    let id = format!("{:04}", inside.made);
    let made = snapshot(&id, &content);
    inside.members.get_mut(&member.id).unwrap().snapshots.push((id, content));
    made
}

impl Executor for Service {
    fn name(&self) -> &'static str {
        "model"
    }

    fn environment(&self) -> &'static str {
        "test"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { control: true, snapshots: true, restore: true }
    }

    fn inventory(&self, _: &Call) -> Result<Option<Vec<Row>>, Error> {
        let inside = self.inside();
        let rows = || inside.members.values().map(|member| member.row.clone()).collect();
        Ok(inside.lists.then(rows))
    }

    fn authority(&self, member: &Row, _: &Call) -> Result<Authority, Error> {
        match self.act(member, "authority", |_, _| Ok(())) {
            Err(Error::Refused(why)) => {
                let (control, read) = (Evidence::NotProven(why.clone()), Evidence::NotProven(why));
                Ok(Authority { control, read })
            }
            Err(other) => Err(other),
            Ok(()) => {
                let proven = || Evidence::Proven("it says so".into());
                Ok(Authority { control: proven(), read: proven() })
            }
        }
    }

    fn status(&self, member: &Row, _: &Call) -> Result<Status, Error> {
        self.act(member, "status", |inside, _| {
            let member = inside.members.get_mut(&member.id).unwrap();
            if member.state == State::Stopping {
                match member.stopping {
                    0 => member.state = State::Stopped,
                    more => member.stopping = more - 1,
                }
            }
            let module_hash = Some(code_of(&member.content));
            Ok(Status { state: member.state, module_hash })
        })
    }

    fn stop(&self, member: &Row, _: &Call) -> Result<(), Error> {
        self.act(member, "stop", |inside, fault| {
            let member = inside.members.get_mut(&member.id).unwrap();
            member.state = State::Stopped;
            if let Some(Fault::StayStopping(questions)) = fault {
                (member.state, member.stopping) = (State::Stopping, questions);
            }
            Ok(())
        })
    }

    fn start(&self, member: &Row, _: &Call) -> Result<(), Error> {
        self.act(member, "start", |inside, _| {
            let guarded = inside.guarded.iter();
            let loaded = guarded.filter(|(id, held)| inside.members[*id].content == **held);
            let loaded: Vec<_> = loaded.map(|(id, _)| id.clone()).collect();
            if !loaded.is_empty() && loaded.len() < inside.guarded.len() {
                let text = format!("{} was started, and only {loaded:?} are loaded", member.id);
                inside.violations.push(text);
            }
            inside.members.get_mut(&member.id).unwrap().state = State::Running;
            Ok(())
        })
    }

    fn snapshots(&self, member: &Row, _: &Call) -> Result<Vec<Snapshot>, Error> {
        self.act(member, "list", |inside, _| {
            let snapshots = &inside.members[&member.id].snapshots;
            Ok(snapshots.iter().map(|(id, content)| snapshot(id, content)).collect())
        })
    }

    fn create(&self, member: &Row, _: &Call) -> Result<Snapshot, Error> {
        self.act(member, "create", |inside, _| {
            let content = inside.members[&member.id].content.clone();
            Ok(keep(inside, member, content))
        })
    }

    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        _: &Call,
    ) -> Result<Fetched, Error> {
        self.act(member, "download", |inside, _| {
            let snapshots = &inside.members[&member.id].snapshots;
            let found = snapshots.iter().find(|(id, _)| *id == snapshot.unwrap().id);
            write(staging, &found.ok_or_else(|| Error::Unknown("no such snapshot".into()))?.1);
            Ok(Fetched::Staged)
        })
    }

    fn check(
        &self,
        member: &Row,
        _: Option<&Snapshot>,
        content: &Path,
    ) -> Result<Vec<String>, Error> {
        self.act(member, "check", |_, _| {
            let code = code_of(&read(content));
            match &member.module_hash {
                Some(expected) if *expected != code => {
                    Err(Error::Refused(format!("code {code}, expected {expected}")))
                }
                _ => Ok(vec![format!("code {code}")]),
            }
        })
    }

    fn upload(&self, member: &Row, staging: &Path, _: &Call) -> Result<Snapshot, Error> {
        self.act(member, "upload", |inside, _| Ok(keep(inside, member, read(staging))))
    }

    fn load(&self, member: &Row, snapshot: &Snapshot, _: &Call) -> Result<(), Error> {
        self.act(member, "load", |inside, fault| {
            let member = inside.members.get_mut(&member.id).unwrap();
            if member.state != State::Stopped {
                return Err(Error::Refused(format!("it is {:?}", member.state)));
            }
            let found = member.snapshots.iter().find(|(id, _)| *id == snapshot.id);
            let Some((_, content)) = found.cloned() else {
                return Err(Error::Unknown("there is no such snapshot".into()));
            };
            member.content = content;
            if fault == Some(Fault::WrongCode) {
                member.content.insert("module".into(), b"other code".to_vec());
            }
            Ok(())
        })
    }

    fn delete(&self, member: &Row, snapshot: &Snapshot, _: &Call) -> Result<(), Error> {
        self.act(member, "delete", |inside, _| {
            let member = inside.members.get_mut(&member.id).unwrap();
            member.snapshots.retain(|(id, _)| *id != snapshot.id);
            Ok(())
        })
    }
}

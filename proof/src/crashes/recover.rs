//! What is done with a store after a crash: it is looked at, the work is done again, and it is
//! looked at once more; also with a second crash in between.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::anyhow;
use strongroom::backend::{Backend, Error, Key, Lock, LockMode, MemoryBackend, ObjectBytes, Put};
use strongroom::store::{IngestOptions, MemberSource, Progress, PruneOptions, Retention, Store};

use super::disk::Content;
use crate::scene;
use crate::stage::{Stage, Work};

/// Makes a store in memory of what was on the disk. `None` if there is no store yet.
pub fn load(content: &Content) -> anyhow::Result<Option<MemoryBackend>> {
    let backend = MemoryBackend::new();
    for (path, bytes) in content {
        let Some(bytes) = bytes else { continue };
        let folder = path.split('/').next().unwrap_or_default();
        if matches!(folder, "tmp" | "locks") {
            continue;
        }
        let key = match path.strip_prefix("packs/") {
            Some(name) => format!("packs/{}", name.rsplit('/').next().unwrap_or_default()),
            None => path.clone(),
        };
        backend.replace(&Key::new(key)?, bytes.to_vec());
    }
    Ok(content.contains_key("store").then_some(backend))
}

/// Says what is wrong with a store right after a crash.
pub fn look(stage: &Stage, backend: &MemoryBackend, is_acknowledged: bool) -> Vec<String> {
    let expected = if is_acknowledged { stage.after_repeat() } else { stage.between() };
    match Store::open(Arc::new(backend.clone())) {
        Ok(store) => expected.check(&store),
        Err(error) => vec![format!("cannot be opened: {error}")],
    }
}

/// Does the work once more, in this process.
pub fn repeat(stage: &Stage, backend: Arc<dyn Backend>) -> anyhow::Result<()> {
    let store = Store::open(backend)?;
    let progress = Progress::default();
    match stage.work {
        Work::First | Work::Next | Work::Merge => {
            let path = stage.source.path().to_owned();
            let source = MemberSource { member: scene::MEMBER.to_owned(), path };
            let options = IngestOptions { reread: true, ..IngestOptions::default() };
            let report = store.backup(scene::DEPLOYMENT, &[source], &options, &progress)?;
            if !report.failed.is_empty() {
                return Err(anyhow!("{:?}", report.failed));
            }
        }
        Work::Forget | Work::Collect | Work::AtOnce => {
            let retention = Retention { last: Some(2), ..Retention::none() };
            let grace_nanos = i64::from(stage.work != Work::AtOnce);
            let options =
                PruneOptions { retention: Some(retention), grace_nanos, ..PruneOptions::default() };
            let plan = store.plan_prune(&options, &progress)?;
            let report = store.prune(&plan, &progress)?;
            if !report.notes.is_empty() {
                return Err(anyhow!("{:?}", report.notes));
            }
        }
        Work::Restore | Work::Run => {}
    }
    Ok(())
}

/// Looks, does the work again, and looks.
pub fn recover(stage: &Stage, backend: &MemoryBackend, is_acknowledged: bool) -> Vec<String> {
    let mut wrong = look(stage, backend, is_acknowledged);
    if let Err(error) = repeat(stage, Arc::new(backend.clone())) {
        wrong.push(format!("the repeat failed: {error:#}"));
        return wrong;
    }
    match Store::open(Arc::new(backend.clone())) {
        Ok(store) => wrong.extend(stage.after_repeat().check(&store)),
        Err(error) => wrong.push(format!("cannot be opened after the repeat: {error}")),
    }
    wrong
}

/// Lets the repeat die after each of its changes, and recovers from that. Returns how often it died.
pub fn die_again(stage: &Stage, content: &Content) -> anyhow::Result<(u64, Vec<String>)> {
    let mut wrong = Vec::new();
    for changes in 0.. {
        let Some(backend) = load(content)? else { return Ok((0, wrong)) };
        let mortal = Arc::new(Mortal { inner: backend.clone(), left: AtomicU64::new(changes) });
        let survived = repeat(stage, mortal).is_ok();
        for finding in recover(stage, &backend, false) {
            wrong.push(format!("after {changes} changes of the repeat: {finding}"));
        }
        if survived {
            return Ok((changes, wrong));
        }
    }
    Ok((0, wrong))
}

/// The same on a real file system, with the real command.
pub fn recover_on_disk(
    tool: &crate::tool::Tool,
    stage: &Stage,
    content: &Content,
    place: &Path,
) -> anyhow::Result<Vec<String>> {
    super::disk::write(content, &place.join("store"))?;
    stage.check(tool, place)
}

/// Changes nothing any more after so many changes.
#[derive(Debug)]
struct Mortal {
    inner: MemoryBackend,
    left: AtomicU64,
}

impl Mortal {
    fn change(&self, path: &str) -> Result<(), Error> {
        let one_less = |left: u64| left.checked_sub(1);
        let lives = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        lives.map(drop).map_err(|_| {
            let source = std::io::Error::other("dead");
            Error::Io { action: "change", path: path.to_owned(), source }
        })
    }
}

impl Backend for Mortal {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.change(key.as_str())?;
        self.inner.put(key, parts)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.change(key.as_str())?;
        self.inner.overwrite(key, parts)
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.inner.read_at(key, offset, buffer)
    }

    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
        self.inner.read(key, bytes_max)
    }

    fn len(&self, key: &Key) -> Result<u64, Error> {
        self.inner.len(key)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
        self.inner.list(folder, each)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.change(key.as_str())?;
        self.inner.delete(key)
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        self.inner.try_lock(name, mode)
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

//! What may be on a disk after a power cut: everything that was synced, and of the rest any part.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::record::{Inode, Op};

/// Most name changes of which all subsets are tried; of more, none, all, all but one, and one.
const SUBSETS_MAX: usize = 5;

/// What became of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    Lost,
    Whole,
    /// The length is there, the bytes are zeros.
    Zeroed,
    /// The first half is there.
    Half,
}

/// All of them.
pub const UNSYNCED: [Unsynced; 4] =
    [Unsynced::Lost, Unsynced::Whole, Unsynced::Zeroed, Unsynced::Half];

#[derive(Clone, Debug, Default)]
struct File {
    synced: Arc<Vec<u8>>,
    /// Writes and truncations since the last sync.
    pending: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(Inode),
}

/// A change of a name that waits for the sync of its folder.
#[derive(Clone, Debug)]
struct NameChange {
    path: String,
    /// What is there now; nothing if it was removed.
    node: Option<Node>,
}

/// A disk, with what is not synced yet.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: HashMap<Inode, File>,
    /// Names as everybody sees them.
    names: BTreeMap<String, Node>,
    /// Names that survive.
    synced: BTreeMap<String, Node>,
    changes: Vec<NameChange>,
}

/// What is on the disk after a power cut: folders, and files with their bytes.
pub type Content = BTreeMap<String, Option<Arc<Vec<u8>>>>;

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What no power cut can harm: unfinished objects, and locks.
fn is_nothing(path: &str) -> bool {
    path.starts_with("tmp/") || path.starts_with("locks/")
}

impl Disk {
    /// Takes up a folder, all of it synced.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let mut disk = Self::default();
        disk.read_below(root, "")?;
        disk.synced = disk.names.clone();
        Ok(disk)
    }

    fn read_below(&mut self, root: &Path, folder: &str) -> anyhow::Result<()> {
        for item in fs::read_dir(root.join(folder))? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if item.file_type()?.is_dir() {
                self.names.insert(path.clone(), Node::Folder);
                self.read_below(root, &path)?;
            } else {
                let inode = item.metadata()?.ino();
                let synced = Arc::new(fs::read(item.path())?);
                self.files.insert(inode, File { synced, pending: Vec::new() });
                self.names.insert(path, Node::File(inode));
            }
        }
        Ok(())
    }

    /// Does what was recorded.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Create { path, inode } => {
                self.files.insert(*inode, File::default());
                self.change(path, Some(Node::File(*inode)));
            }
            Op::MakeFolder { path } => self.change(path, Some(Node::Folder)),
            Op::Write { inode, .. } | Op::Truncate { inode, .. } => {
                self.files.entry(*inode).or_default().pending.push(op.clone());
            }
            Op::SyncFile { inode } => {
                let file = self.files.entry(*inode).or_default();
                file.synced = file.after(Unsynced::Whole);
                file.pending.clear();
            }
            Op::SyncFolder { path } => {
                let (now, later) = std::mem::take(&mut self.changes)
                    .into_iter()
                    .partition::<Vec<_>, _>(|change| folder_of(&change.path) == path);
                self.changes = later;
                for change in now {
                    change.apply(&mut self.synced);
                }
            }
            Op::Rename { from, to } => {
                let node = self.names.get(from).cloned();
                self.change(from, None);
                self.change(to, node);
            }
            Op::Link { from, to } => {
                let node = self.names.get(from).cloned();
                self.change(to, node);
            }
            Op::Remove { path } => self.change(path, None),
            Op::Acknowledge => {}
        }
    }

    fn change(&mut self, path: &str, node: Option<Node>) {
        let change = NameChange { path: path.to_owned(), node };
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    /// Calls `each` with everything that may be there after a power cut now.
    pub fn crashes(&self, mut each: impl FnMut(Content)) {
        let open: Vec<_> = self.changes.iter().filter(|change| !is_nothing(&change.path)).collect();
        for chosen in subsets(open.len()) {
            let mut names = self.synced.clone();
            for change in self.changes.iter().filter(|change| is_nothing(&change.path)) {
                change.apply(&mut names);
            }
            for (change, _) in open.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
                change.apply(&mut names);
            }
            for unsynced in UNSYNCED {
                each(self.content(&names, unsynced));
            }
        }
    }

    fn content(&self, names: &BTreeMap<String, Node>, unsynced: Unsynced) -> Content {
        let mut content = Content::new();
        for (path, node) in names {
            // What is in a folder that is not there is not there.
            let folder = folder_of(path);
            if !folder.is_empty() && !content.contains_key(folder) {
                continue;
            }
            let bytes = match node {
                Node::Folder => None,
                Node::File(inode) => {
                    let none = File::default();
                    Some(self.files.get(inode).unwrap_or(&none).after(unsynced))
                }
            };
            content.insert(path.clone(), bytes);
        }
        content
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match &self.node {
            Some(node) => names.insert(self.path.clone(), node.clone()),
            None => names.remove(&self.path),
        };
    }
}

impl File {
    fn after(&self, unsynced: Unsynced) -> Arc<Vec<u8>> {
        if self.pending.is_empty() || unsynced == Unsynced::Lost {
            return Arc::clone(&self.synced);
        }
        let mut bytes = self.synced.to_vec();
        for op in &self.pending {
            match op {
                Op::Write { offset, bytes: written, .. } => {
                    let start = *offset as usize;
                    let len =
                        if unsynced == Unsynced::Half { written.len() / 2 } else { written.len() };
                    let end = start + len;
                    bytes.resize(bytes.len().max(end), 0);
                    if unsynced != Unsynced::Zeroed {
                        bytes[start..end].copy_from_slice(&written[..len]);
                    }
                }
                Op::Truncate { len, .. } => bytes.resize(*len as usize, 0),
                _ => {}
            }
        }
        Arc::new(bytes)
    }
}

/// Returns which of `count` things are chosen.
fn subsets(count: usize) -> Vec<Vec<bool>> {
    if count <= SUBSETS_MAX {
        return (0..1u32 << count)
            .map(|bits| (0..count).map(|at| bits >> at & 1 == 1).collect())
            .collect();
    }
    let mut chosen = vec![vec![false; count], vec![true; count]];
    for at in 0..count {
        let mut one = vec![false; count];
        one[at] = true;
        let all_but_one = one.iter().map(|chosen| !chosen).collect();
        chosen.extend([one, all_but_one]);
    }
    chosen
}

/// Writes a content to a new folder.
pub fn write(content: &Content, root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root)?;
    for (path, bytes) in content {
        match bytes {
            None => fs::create_dir_all(root.join(path))?,
            Some(bytes) => fs::write(root.join(path), &bytes[..])?,
        }
    }
    Ok(())
}

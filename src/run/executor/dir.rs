//! Local directories as members: they are read in place, and there is nothing to stop, to start or
//! to ask.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, Status, staged};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;

/// The name that stands in receipts.
const NAME: &str = "dir";

/// Members that are directories or files of this machine.
#[derive(Clone, Debug)]
pub struct DirExecutor {
    paths: BTreeMap<String, PathBuf>,
}

impl DirExecutor {
    /// Members by identity, each with its directory or file.
    #[must_use]
    pub fn new<I: Into<String>, P: Into<PathBuf>>(
        members: impl IntoIterator<Item = (I, P)>,
    ) -> Self {
        let paths = members.into_iter().map(|(id, path)| (id.into(), path.into())).collect();
        Self { paths }
    }

    fn path(&self, member: &Row) -> Result<&Path, Error> {
        self.paths.get(&member.id).map(PathBuf::as_path).ok_or_else(|| {
            Error::Refused(format!("member {} has no path in the configuration", member.id))
        })
    }

    fn unsupported<T>(what: &'static str) -> Result<T, Error> {
        Err(Error::Unsupported { executor: NAME.to_owned(), what })
    }
}

impl Executor for DirExecutor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn environment(&self) -> &'static str {
        ""
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { control: false, snapshots: false, restore: false }
    }

    /// None: the configured members count, with their roles and parents.
    fn inventory(&self, _: &Call) -> Result<Option<Vec<Row>>, Error> {
        Ok(None)
    }

    fn authority(&self, member: &Row, _: &Call) -> Result<Authority, Error> {
        let path = self.path(member)?;
        let read = match open(path) {
            Ok(()) => Evidence::Proven(format!("{} can be opened", path.display())),
            Err(error) => Evidence::NotProven(format!("{}: {error}", path.display())),
        };
        Ok(Authority { control: Evidence::Declared, read })
    }

    fn status(&self, _: &Row, _: &Call) -> Result<Status, Error> {
        Self::unsupported("ask for a status")
    }

    fn stop(&self, _: &Row, _: &Call) -> Result<(), Error> {
        Self::unsupported("stop members")
    }

    fn start(&self, _: &Row, _: &Call) -> Result<(), Error> {
        Self::unsupported("start members")
    }

    fn snapshots(&self, _: &Row, _: &Call) -> Result<Vec<Snapshot>, Error> {
        Self::unsupported("list snapshots")
    }

    fn create(&self, _: &Row, _: &Call) -> Result<Snapshot, Error> {
        Self::unsupported("make snapshots")
    }

    /// Leaves the member where it is.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there.
    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        _: &Path,
        _: &Call,
    ) -> Result<Fetched, Error> {
        if snapshot.is_some() {
            return Self::unsupported("fetch a snapshot");
        }
        staged::in_place(member, self.path(member)?.to_owned())
    }

    /// Nothing: there is no evidence beside the files themselves, which are hashed as they are read.
    fn check(&self, _: &Row, _: Option<&Snapshot>, _: &Path) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn upload(&self, _: &Row, _: &Path, _: &Call) -> Result<Snapshot, Error> {
        Self::unsupported("upload snapshots")
    }

    fn load(&self, _: &Row, _: &Snapshot, _: &Call) -> Result<(), Error> {
        Self::unsupported("load snapshots")
    }

    fn delete(&self, _: &Row, _: &Snapshot, _: &Call) -> Result<(), Error> {
        Self::unsupported("remove snapshots")
    }
}

/// Opens a directory or file for reading. Nothing else is opened: a fifo would wait.
fn open(path: &Path) -> std::io::Result<()> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        std::fs::read_dir(path).map(drop)
    } else if kind.is_file() {
        std::fs::File::open(path).map(drop)
    } else {
        Err(std::io::Error::other("it is neither a directory nor a file"))
    }
}

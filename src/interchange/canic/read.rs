//! Reading a backup directory: the files, bounded and by descriptor, and what they say together.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::documents::{
    DOWNLOADS, DownloadState, Downloads, EXECUTION, Execution, MANIFEST, Manifest, PLAN, Plan,
};
use super::error::Error;
use super::{agree, check};
use crate::fstree;
use crate::limits::INTERCHANGE_JSON_BYTES_MAX;

/// What the files of a finished backup say; checked.
pub(super) struct Backup {
    pub manifest: Manifest,
    pub downloads: Downloads,
    /// Not there in a directory of canic-backup's plain download of snapshots.
    pub run: Option<(Plan, Execution)>,
}

impl Backup {
    /// Reads and checks all files of the directory. Artifacts are not looked at.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let source = fstree::Source::open(dir)?;
        let plan: Option<Plan> = read(&source, PLAN)?;
        let execution: Option<Execution> = read(&source, EXECUTION)?;
        let downloads: Option<Downloads> = read(&source, DOWNLOADS)?;
        let manifest: Option<Manifest> = read(&source, MANIFEST)?;
        // In this order, so that a run under way is told as such and not by what it lacks.
        let run = match (plan, execution) {
            (Some(plan), Some(execution)) => {
                check::plan(&plan)?;
                check::execution(&execution)?;
                Some((plan, execution))
            }
            (None, None) => None,
            (Some(_), None) => return Err(Error::Half { there: PLAN, missing: EXECUTION }),
            (None, Some(_)) => return Err(Error::Half { there: EXECUTION, missing: PLAN }),
        };
        if let Some(downloads) = &downloads {
            check::downloads(downloads)?;
            finished(downloads)?;
        }
        let missing = |file| Error::NotABackup { path: dir.to_path_buf(), file };
        let manifest = manifest.ok_or_else(|| missing(MANIFEST))?;
        let downloads = downloads.ok_or_else(|| missing(DOWNLOADS))?;
        check::manifest(&manifest)?;
        let backup = Self { manifest, downloads, run };
        agree::check(&backup)?;
        Ok(backup)
    }
}

fn finished(downloads: &Downloads) -> Result<(), Error> {
    match downloads.artifacts.iter().find(|entry| entry.state != DownloadState::Durable) {
        None => Ok(()),
        Some(entry) => Err(Error::Unfinished {
            file: DOWNLOADS,
            what: format!("the artifact of {}", entry.canister_id),
            state: entry.state.name(),
        }),
    }
}

/// Reads a file of the directory; `None` if there is none.
fn read<T: DeserializeOwned>(
    source: &fstree::Source,
    file: &'static str,
) -> Result<Option<T>, Error> {
    let open = match source.open_file(file.as_bytes()) {
        Ok(open) => open,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let failed = |error| Error::from(source.error("read", file.as_bytes(), error));
    let bytes = open.metadata().map_err(failed)?.len();
    let bytes_max = INTERCHANGE_JSON_BYTES_MAX as u64;
    let too_large = |bytes| Err(Error::TooLarge { file, bytes, bytes_max });
    if bytes > bytes_max {
        return too_large(bytes);
    }
    let mut text = Vec::new();
    // It may grow meanwhile.
    open.take(bytes_max + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return too_large(text.len() as u64);
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|source| Error::Json { file, source })
}

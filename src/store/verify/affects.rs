//! What damage touches: the generations and paths whose bytes go through it.

use std::collections::HashSet;

use super::{Verification, name_of};
use crate::backend::Backend;
use crate::digest::Digest;
use crate::format::manifest::Entry;
use crate::log::{Generation, Log};
use crate::store::list::PageFault;
use crate::store::{Error, MANIFESTS, Store};

impl Verification<'_> {
    /// Names, for each damaged chunk and page, the paths that need it. Only when there are some:
    /// this walks every generation in full.
    pub(super) fn affects(&mut self, generations: &[Generation]) -> Result<(), Error> {
        if self.bad_chunks.is_empty() && self.misfits.is_empty() {
            return Ok(());
        }
        for generation in generations {
            let Ok(manifest) = self.store.generation(&generation.manifest) else { continue };
            let name = name_of(generation);
            for member in &manifest.members {
                let Ok(artifact) = self.store.artifact(&member.artifact) else { continue };
                for entry in self.store.entries(&artifact) {
                    self.progress.check()?;
                    match entry {
                        Ok(entry) => self.entry(&name, &member.name, &entry),
                        Err(fault) => {
                            self.lost_page(&name, &path_of(&member.name, &fault.first), &fault);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, generation: &str, member: &str, entry: &Entry) {
        let Some(content) = entry.content() else { return };
        for chunk in self.store.chunks(content) {
            match chunk {
                Ok(chunk) => {
                    let bad = self.bad_chunks.get(&chunk.digest);
                    let misfit = self.misfits.get(&(chunk.digest, chunk.bytes));
                    for damage in bad.into_iter().chain(misfit) {
                        let path = path_of(member, &entry.path);
                        self.report.damaged[*damage].touch(generation, path);
                    }
                }
                Err(fault) => self.lost_page(generation, &path_of(member, &entry.path), &fault),
            }
        }
    }

    fn lost_page(&mut self, generation: &str, path: &str, fault: &PageFault) {
        let Some(damage) = self.bad_chunks.get(&fault.digest) else { return };
        let range = match &fault.after {
            _ if fault.first.is_empty() && fault.after.is_none() => path.to_owned(),
            Some(after) if !after.is_empty() => {
                format!("{path} (and all before {})", String::from_utf8_lossy(after))
            }
            _ => format!("{path} (and all after it)"),
        };
        self.report.damaged[*damage].touch(generation, range);
    }
}

fn path_of(member: &str, path: &[u8]) -> String {
    if path.is_empty() {
        member.to_owned()
    } else {
        format!("{member}/{}", String::from_utf8_lossy(path))
    }
}

/// Returns deployments and ids of generation manifests that no commit record refers to. Only worth
/// it when records are damaged: this reads every manifest.
pub(super) fn unreferenced_generations(store: &Store, log: &Log) -> Vec<(String, Digest)> {
    if log.damaged().is_empty() {
        return Vec::new();
    }
    let known: HashSet<_> =
        log.state().promoted().iter().map(|(generation, _)| generation.manifest).collect();
    let (backend, mut ids): (&dyn Backend, _) = (store.backend(), Vec::new());
    let listed = backend.list(MANIFESTS, &mut |key, _| {
        ids.extend(key.name().parse::<Digest>().ok().filter(|id| !known.contains(id)));
    });
    if listed.is_err() {
        return Vec::new();
    }
    let manifest = |id: Digest| store.generation(&id).ok().map(|found| (found.deployment, id));
    ids.into_iter().filter_map(manifest).collect()
}

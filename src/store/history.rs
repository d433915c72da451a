//! History: pinning generations, and bringing back what was forgotten.

use super::{Error, Store};
use crate::clock::UnixNanos;
use crate::format::record::{Event, GenerationName};
use crate::limits::RECORD_NAMES_MAX;
use crate::log::{Fate, Log};

impl Store {
    /// Pins a generation: no retention policy forgets it. Says whether it was not pinned before.
    ///
    /// # Errors
    /// It is not visible, or the storage failed.
    pub fn pin(&self, name: &GenerationName) -> Result<bool, Error> {
        let _lease = self.writer()?;
        let mut log = self.log()?;
        check_visible(&log, name)?;
        if log.state().pins().contains(name) {
            return Ok(false);
        }
        log.append(self.backend(), UnixNanos::now(), |log| {
            check_known(log)?;
            check_visible(log, name)?;
            Ok::<_, Error>(Event::Pin(name.clone()))
        })?;
        Ok(true)
    }

    /// Takes a pin away. Says whether there was one.
    ///
    /// # Errors
    /// There never was such a generation, or the storage failed.
    pub fn unpin(&self, name: &GenerationName) -> Result<bool, Error> {
        let _lease = self.writer()?;
        let mut log = self.log()?;
        if !log.state().pins().contains(name) {
            check_visible(&log, name)?;
            return Ok(false);
        }
        log.append(self.backend(), UnixNanos::now(), |log| {
            check_known(log)?;
            Ok::<_, Error>(Event::Unpin(name.clone()))
        })?;
        Ok(true)
    }

    /// Brings forgotten generations back, all or none; those that are visible stay so. With no
    /// names, brings back what the last record that forgets has forgotten, as far as that is still
    /// there. Returns what became visible.
    ///
    /// # Errors
    /// [`Error::Forgotten`] if one was collected, and what it needs may be gone; there never was
    /// one of such a name; nothing is there to be brought back; the storage failed.
    pub fn undo(&self, names: &[GenerationName]) -> Result<Vec<GenerationName>, Error> {
        let _lease = self.writer()?;
        let mut brought = Vec::new();
        let mut log = self.log()?;
        let chosen = if names.is_empty() { last_forgotten(&log)? } else { names.to_vec() };
        while brought.is_empty() {
            check_known(&log)?;
            let names = forgotten_of(&log, &chosen)?;
            if names.is_empty() {
                break;
            }
            let event = Event::Undo(names.clone());
            if log.try_append(self.backend(), UnixNanos::now(), event)?.is_some() {
                brought = names;
            }
        }
        Ok(brought)
    }
}

/// Fails if the log has records that a writer has to know and this program does not.
pub(super) fn check_known(log: &Log) -> Result<(), Error> {
    log.unknown_kind().map_or(Ok(()), |kind| Err(Error::NewerRecords { kind }))
}

/// Fails unless a generation is visible.
pub(super) fn check_visible(log: &Log, name: &GenerationName) -> Result<(), Error> {
    match log.state().find(name) {
        Some((_, Fate::Visible)) => Ok(()),
        _ => Err(missing(log, name)),
    }
}

/// Returns why a generation cannot be had.
pub(super) fn missing(log: &Log, name: &GenerationName) -> Error {
    let state = log.state();
    let fate = state.find(name).map(|(_, fate)| *fate);
    if let Some(fate @ (Fate::Forgotten { .. } | Fate::Collected)) = fate {
        let (name, can_return) = (name.clone(), is_reversible(log, fate));
        return Error::Forgotten { name, can_return };
    }
    let visible = log.generations();
    let own = visible.iter().filter(|generation| generation.deployment == name.deployment);
    match own.map(|generation| generation.number).max() {
        Some(newest) => {
            let (deployment, generation) = (name.deployment.clone(), name.generation);
            Error::UnknownGeneration { deployment, generation, newest }
        }
        None => {
            let mut known: Vec<_> = visible.into_iter().map(|known| known.deployment).collect();
            known.sort_unstable();
            known.dedup();
            Error::UnknownDeployment { name: name.deployment.clone(), known }
        }
    }
}

/// Says whether a generation can be brought back. Behind a damaged record that may have collected
/// it, it cannot.
fn is_reversible(log: &Log, fate: Fate) -> bool {
    let Fate::Forgotten { by } = fate else { return false };
    let state = log.state();
    let in_doubt = state.collecting().any(|collection| !collection.is_certain);
    !(in_doubt && state.condemned().iter().any(|condemned| by <= condemned.basis))
}

/// Returns those of `names` that are forgotten; fails if one cannot come back.
fn forgotten_of(log: &Log, names: &[GenerationName]) -> Result<Vec<GenerationName>, Error> {
    let (state, mut forgotten) = (log.state(), Vec::new());
    for name in names {
        match state.find(name) {
            Some((_, Fate::Visible)) => {}
            Some((_, fate)) if is_reversible(log, *fate) => forgotten.push(name.clone()),
            _ => return Err(missing(log, name)),
        }
    }
    forgotten.truncate(RECORD_NAMES_MAX);
    Ok(forgotten)
}

/// Returns what the last record that forgets has forgotten and can come back.
fn last_forgotten(log: &Log) -> Result<Vec<GenerationName>, Error> {
    let state = log.state();
    for record in log.records().iter().rev() {
        let Event::Forget(names) = &record.event else { continue };
        let by = record.number;
        let is_of_it = |name: &&GenerationName| {
            let fate = state.find(name).map(|(_, fate)| *fate);
            fate == Some(Fate::Forgotten { by }) && is_reversible(log, Fate::Forgotten { by })
        };
        let names: Vec<_> = names.iter().filter(is_of_it).cloned().collect();
        if !names.is_empty() {
            return Ok(names);
        }
    }
    Err(Error::NothingForgotten)
}

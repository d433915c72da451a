//! What every command needs: the store's place, and how to print.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::args::Global;
use super::errors::{self, Failure};
use super::fleet::{self, Loaded};
use super::output::shell_word;
use crate::backend::{self, Backend, LocalBackend, ThrottledBackend};
use crate::store::{self, Store, StoreConfig};

/// The options of every command, made ready.
#[derive(Debug)]
pub struct Context {
    store: Option<PathBuf>,
    config: Option<PathBuf>,
    loaded: OnceLock<Option<Loaded>>,
    /// Bytes a second to and from the store.
    limit_rate: Option<u64>,
    /// One JSON object instead of text.
    pub json: bool,
    /// No progress and no summary.
    pub quiet: bool,
    /// Whether progress is wanted.
    pub progress: bool,
}

impl Context {
    /// Makes the context; an empty `--store` counts as none.
    pub fn new(global: Global) -> Self {
        let Global { config, store, limit_rate, json, quiet, no_progress } = global;
        let store = store.filter(|store| !store.is_empty()).map(PathBuf::from);
        let progress = !quiet && !no_progress;
        Self { store, config, loaded: OnceLock::new(), limit_rate, json, quiet, progress }
    }

    /// Says whether a summary for people is wanted.
    pub fn summary(&self) -> bool {
        !self.json && !self.quiet
    }

    /// Returns the store's directory.
    ///
    /// # Errors
    /// None was given.
    pub fn store_path(&self) -> Result<&Path, Failure> {
        let configured = match &self.store {
            Some(store) => return Ok(store),
            None => self.config()?.and_then(|loaded| loaded.config.store.as_deref()),
        };
        configured.ok_or_else(|| {
            let hint = "give its directory with --store DIR, in the variable STRONGROOM_STORE, or as \
                        `store` in strongroom.toml";
            Failure::usage("no store was named").with_hint(hint)
        })
    }

    /// Returns the configuration, if one was named or is in the working directory.
    ///
    /// # Errors
    /// It cannot be read, or is refused.
    pub fn config(&self) -> Result<Option<&Loaded>, Failure> {
        /// Looked for in the working directory.
        const DEFAULT: &str = "strongroom.toml";
        if self.loaded.get().is_none() {
            let loaded = match &self.config {
                Some(path) => Some(fleet::load(path)?),
                None if Path::new(DEFAULT).exists() => Some(fleet::load(Path::new(DEFAULT))?),
                None => None,
            };
            let _ = self.loaded.set(loaded);
        }
        Ok(self.loaded.get().and_then(Option::as_ref))
    }

    /// Says whether the store was named by option or variable.
    pub fn store_was_named(&self) -> bool {
        self.store.is_some()
    }

    /// Returns a command with this store, for hints.
    pub fn command(&self, command: &str) -> String {
        match &self.store {
            Some(store) => {
                let store = store.display().to_string();
                format!("strongroom {command} --store {}", shell_word(&store))
            }
            None => format!("strongroom {command}"),
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// None was named, there is none, or it cannot be opened.
    pub fn open(&self) -> Result<Store, Failure> {
        let path = self.store_path()?;
        open(path, self.limit_rate).map_err(|error| Failure::store(self, "open the store", error))
    }

    /// Opens the store for a backup.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_to_write(&self) -> Result<Store, Failure> {
        let store = self.open()?;
        sweep(self.store_path()?);
        Ok(store)
    }

    /// Creates the store.
    ///
    /// # Errors
    /// None was named, there is one already, or the directory cannot be used.
    pub fn create(&self) -> Result<Store, Failure> {
        let path = self.store_path()?;
        create(path).map_err(|error| Failure::store(self, "create the store", error))
    }

    /// Opens the store, or creates it if there is none. Says whether it was created.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::create`].
    pub fn open_or_create(&self) -> Result<(Store, bool), Failure> {
        let path = self.store_path()?;
        match open(path, self.limit_rate) {
            Ok(store) => {
                sweep(path);
                return Ok((store, false));
            }
            Err(store::Error::NotAStore { .. }) => {}
            Err(error) => return Err(Failure::store(self, "open the store", error)),
        }
        match create(path) {
            Ok(store) => Ok((store, true)),
            // Another process may have been faster.
            Err(error) => match open(path, self.limit_rate) {
                Ok(store) => Ok((store, false)),
                Err(_) => Err(Failure::store(self, "create the store", error)),
            },
        }
    }
}

fn open(path: &Path, limit_rate: Option<u64>) -> Result<Store, store::Error> {
    let backend = LocalBackend::open(path).map_err(|error| match error {
        backend::Error::Io { source, .. } if errors::is_missing(&source) => {
            store::Error::NotAStore { location: path.display().to_string() }
        }
        other => other.into(),
    })?;
    let backend: Arc<dyn Backend> = Arc::new(backend);
    Store::open(match limit_rate {
        Some(rate) => Arc::new(ThrottledBackend::new(backend, rate)),
        None => backend,
    })
}

/// Removes what killed writers left, in a directory that is known to be a store.
fn sweep(path: &Path) {
    // What cannot be removed does no harm and is found again by the next backup.
    if let Ok(backend) = LocalBackend::open(path) {
        let _ = backend.sweep_tmp();
    }
}

fn create(path: &Path) -> Result<Store, store::Error> {
    let backend = LocalBackend::create(path).map_err(|error| match error {
        backend::Error::NotEmpty { .. } if open(path, None).is_ok() => {
            store::Error::Exists { location: path.display().to_string() }
        }
        other => other.into(),
    })?;
    Store::create(Arc::new(backend), StoreConfig::default())
}

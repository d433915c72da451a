//! Configuration: `strongroom.toml`, as values. Files are read by whoever calls; relative paths are
//! those of the configuration's own directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::executor::{
    CommandConfig, CommandExecutor, DirExecutor, Executor, IcpConfig, IcpExecutor,
};
use super::facts::{Identity, Quiescence, Scope};
use super::inventory::Row;
use super::plan::{AuthorityNeeded, Checksum, Request};

/// Most members of a configured inventory.
const MEMBERS_MAX: usize = crate::limits::MEMBERS_MAX;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// The store's directory.
    pub store: Option<PathBuf>,
    /// Where downloads wait; by default `staging` in the store's directory.
    pub staging: Option<PathBuf>,
    /// Deployments by name.
    pub deployments: BTreeMap<String, Deployment>,
}

/// What drives a deployment's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutorKind {
    /// Local directories.
    Dir,
    /// Commands.
    Command,
    /// The `icp` command.
    Icp,
}

/// One deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Deployment {
    /// What drives the members; by default the one that has a section, else `dir`.
    pub executor: Option<ExecutorKind>,
    /// Checksum of the artifacts.
    pub checksum: Option<Checksum>,
    /// How the members are quieted.
    pub quiescence: Option<Quiescence>,
    /// How much must be known of the rights over the members.
    pub authority: Option<AuthorityNeeded>,
    /// Which members.
    pub scope: Option<Scope>,
    /// The member for scopes that select one.
    pub select: Option<String>,
    /// The root of the deployment.
    pub root: Option<String>,
    /// A JSON file with the members.
    pub inventory: Option<PathBuf>,
    /// The members.
    pub members: Vec<Member>,
    /// Most downloads at once.
    pub concurrency: Option<usize>,
    /// Whether snapshots stay at the service after they are durable here.
    pub keep_snapshots: Option<bool>,
    /// How long a member may take to stop or start, such as `10m`.
    pub settle: Option<String>,
    /// How old the newest generation may be before it is overdue, such as `26h`.
    pub every: Option<String>,
    /// Settings of the executor `command`.
    pub command: Option<CommandConfig>,
    /// Settings of the executor `icp`.
    pub icp: Option<IcpConfig>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Member {
    /// Its identity.
    #[serde(alias = "pid", alias = "canister_id")]
    pub id: String,
    /// Its role.
    #[serde(default)]
    pub role: Option<String>,
    /// Its kind.
    #[serde(default)]
    pub kind: Option<String>,
    /// The member above it.
    #[serde(default, alias = "parent_pid", alias = "parent_canister_id")]
    pub parent: Option<String>,
    /// SHA-256 of its code, with or without `0x`.
    #[serde(default, alias = "module_hash")]
    pub module_hash: Option<String>,
    /// Where its files are, for the executor `dir`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Whether it may be restored under another identity.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// Placeholders for the executor `command`.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that there is not.
    #[error("unknown key `{key}`{}", place(*.line))]
    UnknownKey {
        /// The key.
        key: String,
        /// The line, from 1.
        line: Option<usize>,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// Not what is expected.
    #[error("{reason}{}", place(*.line))]
    Invalid {
        /// What is wrong.
        reason: String,
        /// The line, from 1.
        line: Option<usize>,
    },
    /// No such deployment.
    #[error("no deployment {name:?} is configured")]
    UnknownDeployment {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A setting of a deployment.
    #[error("deployment {deployment}: {reason}")]
    Deployment {
        /// The deployment.
        deployment: String,
        /// What is wrong.
        reason: String,
    },
}

fn place(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

impl Config {
    /// Parses a configuration; relative paths in it are below `base`.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a value that cannot be.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Error> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            refuse(error.message(), line)
        })?;
        let below = |path: &mut Option<PathBuf>| {
            if let Some(path) = path {
                *path = base.join(&path);
            }
        };
        below(&mut config.store);
        below(&mut config.staging);
        for deployment in config.deployments.values_mut() {
            below(&mut deployment.inventory);
            deployment.members.iter_mut().for_each(|member| below(&mut member.path));
            if let Some(command) = &mut deployment.command {
                below(&mut command.directory);
            }
            if let Some(icp) = &mut deployment.icp {
                below(&mut icp.project);
                below(&mut icp.home);
                below(&mut icp.identity_password_file);
            }
        }
        Ok(config)
    }

    /// Returns a deployment.
    ///
    /// # Errors
    /// [`Error::UnknownDeployment`].
    pub fn deployment(&self, name: &str) -> Result<&Deployment, Error> {
        self.deployments.get(name).ok_or_else(|| Error::UnknownDeployment {
            name: name.to_owned(),
            known: self.deployments.keys().cloned().collect(),
        })
    }
}

/// Parses a JSON list of members.
///
/// # Errors
/// Not JSON, an unknown key, or too many members.
pub fn parse_inventory(json: &[u8]) -> Result<Vec<Member>, Error> {
    let members: Vec<Member> = serde_json::from_slice(json)
        .map_err(|error| refuse(&error.to_string(), Some(error.line())))?;
    if members.len() <= MEMBERS_MAX {
        return Ok(members);
    }
    let reason = format!("{} members, at most {MEMBERS_MAX} allowed", members.len());
    Err(Error::Invalid { reason, line: None })
}

/// Makes an error of serde's words, which name an unknown key and the known ones in back quotes.
fn refuse(message: &str, line: Option<usize>) -> Error {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(key) = quoted.next()
    {
        let near = |known: &str| strsim::jaro_winkler(key, known);
        let nearest = quoted
            .filter(|known| near(known) > 0.7)
            .max_by(|a, b| near(a).total_cmp(&near(b)))
            .map(str::to_owned);
        return Error::UnknownKey { key: key.to_owned(), line, nearest };
    }
    Error::Invalid { reason: message.trim().replace('\n', "; "), line }
}

impl Deployment {
    fn bad(name: &str, reason: impl Into<String>) -> Error {
        Error::Deployment { deployment: name.to_owned(), reason: reason.into() }
    }

    /// Says what drives the members.
    ///
    /// # Errors
    /// Several could.
    pub fn executor_kind(&self, name: &str) -> Result<ExecutorKind, Error> {
        match (self.executor, &self.command, &self.icp) {
            (None, Some(_), Some(_)) => Err(Self::bad(
                name,
                "both [command] and [icp] are there: say which is the executor",
            )),
            (Some(kind), ..) => Ok(kind),
            (None, Some(_), None) => Ok(ExecutorKind::Command),
            (None, None, Some(_)) => Ok(ExecutorKind::Icp),
            (None, None, None) => Ok(ExecutorKind::Dir),
        }
    }

    /// Makes the executor. `members` are the configured ones and those of the inventory file.
    ///
    /// # Errors
    /// A setting is missing or cannot be.
    pub fn make_executor(
        &self,
        name: &str,
        members: &[Member],
    ) -> Result<Box<dyn Executor>, Error> {
        match self.executor_kind(name)? {
            ExecutorKind::Dir => {
                let mut paths = Vec::with_capacity(members.len());
                for member in members {
                    let Some(path) = &member.path else {
                        let id = &member.id;
                        return Err(Self::bad(name, format!("member {id} has no `path`")));
                    };
                    paths.push((member.id.clone(), path.clone()));
                }
                Ok(Box::new(DirExecutor::new(paths)))
            }
            ExecutorKind::Command => {
                let mut config = self.command.clone().unwrap_or_default();
                for member in members {
                    let variables = config.variables.entry(member.id.clone()).or_default();
                    variables.extend(member.variables.clone());
                }
                let made = CommandExecutor::new(config);
                Ok(Box::new(made.map_err(|error| Self::bad(name, error.to_string()))?))
            }
            ExecutorKind::Icp => {
                let made = IcpExecutor::new(self.icp.clone().unwrap_or_default());
                Ok(Box::new(made.map_err(|error| Self::bad(name, error.to_string()))?))
            }
        }
    }

    /// Returns what is asked for: the settings, with defaults where there are none. `selector` and
    /// `scope` go before the configured ones.
    ///
    /// # Errors
    /// The executor is not clear.
    pub fn request(
        &self,
        name: &str,
        executor: &dyn Executor,
        members: &[Member],
        scope: Option<Scope>,
        selector: Option<&str>,
    ) -> Result<Request, Error> {
        let is_icp = self.executor_kind(name)? == ExecutorKind::Icp;
        let fixed = members.iter().filter(|member| member.identity == Some(Identity::Fixed));
        let default_scope = if is_icp { Scope::NonRootDeployment } else { Scope::MaintenanceRoot };
        Ok(Request {
            deployment: name.to_owned(),
            executor: executor.name().to_owned(),
            environment: executor.environment().to_owned(),
            scope: scope.or(self.scope).unwrap_or(default_scope),
            selector: selector.map(str::to_owned).or_else(|| self.select.clone()),
            root: self.root.clone(),
            quiescence: self.quiescence.unwrap_or_default(),
            // What canic-backup and the snapshots' own evidence use.
            checksum: self.checksum.unwrap_or(if is_icp {
                Checksum::Sha256
            } else {
                Checksum::Blake3
            }),
            authority: self.authority_needed(name)?,
            fixed: fixed.map(|member| member.id.clone()).collect(),
            snapshots: executor.capabilities().snapshots,
        })
    }

    /// Returns how much must be known of the rights over the members: of canisters they are proven,
    /// unless the configuration says otherwise.
    ///
    /// # Errors
    /// The executor is not clear.
    pub fn authority_needed(&self, name: &str) -> Result<AuthorityNeeded, Error> {
        let default = match self.executor_kind(name)? {
            ExecutorKind::Icp => AuthorityNeeded::Proven,
            ExecutorKind::Dir | ExecutorKind::Command => AuthorityNeeded::Declared,
        };
        Ok(self.authority.unwrap_or(default))
    }

    /// Returns how long a member may take to stop or start.
    ///
    /// # Errors
    /// It is no duration.
    pub fn settle(&self, name: &str) -> Result<Option<Duration>, Error> {
        duration(name, "settle", self.settle.as_deref())
    }

    /// Returns how old the newest generation may be.
    ///
    /// # Errors
    /// It is no duration.
    pub fn every(&self, name: &str) -> Result<Option<Duration>, Error> {
        duration(name, "every", self.every.as_deref())
    }
}

fn duration(name: &str, key: &str, text: Option<&str>) -> Result<Option<Duration>, Error> {
    let Some(text) = text else { return Ok(None) };
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    match parsed.map(Duration::try_from) {
        Ok(Ok(duration)) if !duration.is_zero() => Ok(Some(duration)),
        _ => Err(Deployment::bad(
            name,
            format!("`{key}` is {text:?}, and a time such as 26h is needed"),
        )),
    }
}

/// Returns the members as executors and plans know them.
#[must_use]
pub fn rows(members: &[Member]) -> Vec<Row> {
    let row = |member: &Member| {
        let Member { id, role, kind, parent, module_hash, .. } = member.clone();
        let module_hash =
            module_hash.map(|hash| hash.trim_start_matches("0x").to_ascii_lowercase());
        Row { id, role, kind, parent, module_hash }
    };
    members.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        store = "store"

        [deployments.orders]
        checksum = "sha256"
        every = "26h"
        [[deployments.orders.members]]
        id = "api"
        path = "/srv/api"
        [[deployments.orders.members]]
        id = "db"
        parent = "api"
        path = "db"
        identity = "fixed"
    "#;

    #[test]
    fn settings_are_read_and_paths_are_below_the_file() {
        let config = Config::parse(TEXT, Path::new("/etc/sr")).unwrap();
        assert_eq!(config.store.as_deref(), Some(Path::new("/etc/sr/store")));
        let orders = config.deployment("orders").unwrap();
        assert_eq!(orders.members[1].path.as_deref(), Some(Path::new("/etc/sr/db")));
        assert_eq!(orders.every("orders").unwrap(), Some(Duration::from_hours(26)));
        let executor = orders.make_executor("orders", &orders.members).unwrap();
        let request = orders.request("orders", &*executor, &orders.members, None, None).unwrap();
        assert_eq!((request.scope, request.checksum), (Scope::MaintenanceRoot, Checksum::Sha256));
        assert_eq!(request.fixed, ["db"]);
        assert!(config.deployment("order").is_err());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let text = TEXT.replace("checksum =", "checksums =");
        let Err(Error::UnknownKey { key, line, nearest }) = Config::parse(&text, Path::new("/"))
        else {
            panic!()
        };
        assert_eq!(
            (key.as_str(), line, nearest.as_deref()),
            ("checksums", Some(5), Some("checksum"))
        );
        let members = br#"[{"id": "a", "rolle": "x"}]"#;
        let Err(Error::UnknownKey { nearest, .. }) = parse_inventory(members) else { panic!() };
        assert_eq!(nearest.as_deref(), Some("role"));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (from, to) in [("\"26h\"", "\"soon\""), ("\"26h\"", "\"0s\"")] {
            let config = Config::parse(&TEXT.replace(from, to), Path::new("/")).unwrap();
            assert!(config.deployments["orders"].every("orders").is_err(), "{to}");
        }
        assert!(Config::parse(&TEXT.replace("sha256", "md5"), Path::new("/")).is_err());
        assert!(Config::parse("store = 3", Path::new("/")).is_err());
        let config = Config::parse(&TEXT.replace("path = \"db\"", ""), Path::new("/")).unwrap();
        let orders = &config.deployments["orders"];
        assert!(orders.make_executor("orders", &orders.members).is_err());
    }

    #[test]
    fn members_come_in_the_words_of_a_registry_too() {
        let json = br#"[{"pid": "aaaaa-aa", "role": "root", "parent_pid": null,
            "module_hash": "0xAB"}]"#;
        let members = parse_inventory(json).unwrap();
        let rows = rows(&members);
        assert_eq!((rows[0].id.as_str(), rows[0].module_hash.as_deref()), ("aaaaa-aa", Some("ab")));
    }
}

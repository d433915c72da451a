//! Configuration of an [`IcpExecutor`](super::IcpExecutor).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Hexadecimal digits of a root key: a DER prefix of 37 bytes and a key of 96.
const ROOT_KEY_DIGITS: usize = 2 * (37 + 96);

/// Which network `icp` speaks to, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IcpConfig {
    /// The program, a path or a name that is looked for in `PATH`.
    pub program: PathBuf,
    /// An environment of a project (`-e`): members may be canister names or principals.
    pub environment: Option<String>,
    /// A network by name or URL (`-n`) instead: members are principals.
    pub network: Option<String>,
    /// The root key of a network that is given by URL (`-k`): `mainnet` or hexadecimal. `fetch`
    /// trusts whoever answers and is taken for this machine only.
    pub root_key: Option<String>,
    /// The identity to act as; else the one that `icp` has chosen.
    pub identity: Option<String>,
    /// A file with the identity's password.
    pub identity_password_file: Option<PathBuf>,
    /// The project's directory; else `icp` looks for it from this process's directory upwards.
    pub project: Option<PathBuf>,
    /// `HOME` for `icp`, where its identities are; else this process's.
    pub home: Option<PathBuf>,
    /// Names of the variables that `icp` gets from this process's environment, beside `PATH` and
    /// `HOME`.
    pub env: Vec<String>,
    /// How long commands may take.
    pub timeouts: IcpTimeouts,
}

/// How long commands may take, such as `10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IcpTimeouts {
    /// `status`, `snapshot list`, `identity principal`.
    #[serde(with = "super::super::limit")]
    pub query: Duration,
    /// `stop`, `start`, `snapshot delete`.
    #[serde(with = "super::super::limit")]
    pub control: Duration,
    /// `snapshot create`, `snapshot restore`.
    #[serde(with = "super::super::limit")]
    pub snapshot: Duration,
    /// `snapshot download`, `snapshot upload`.
    #[serde(with = "super::super::limit")]
    pub transfer: Duration,
}

impl Default for IcpConfig {
    fn default() -> Self {
        Self {
            program: "icp".into(),
            environment: None,
            network: None,
            root_key: None,
            identity: None,
            identity_password_file: None,
            project: None,
            home: None,
            env: Vec::new(),
            timeouts: IcpTimeouts::default(),
        }
    }
}

impl Default for IcpTimeouts {
    fn default() -> Self {
        Self {
            query: Duration::from_mins(1),
            control: Duration::from_mins(10),
            snapshot: Duration::from_mins(30),
            transfer: Duration::from_hours(24),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IcpConfigError {
    /// No network, or two.
    #[error("exactly one of 'environment' and 'network' is needed")]
    Network,
    /// A network by URL whose answers could not be verified.
    #[error("network {url:?} is given by URL and needs 'root-key'")]
    NoRootKey {
        /// The network.
        url: String,
    },
    /// A root key where none is used.
    #[error("'root-key' is for a network that is given by URL")]
    UnusedRootKey,
    /// A root key that is none.
    #[error("'root-key' is 'mainnet' or {ROOT_KEY_DIGITS} hexadecimal digits")]
    RootKey,
    /// A root key that anybody could have sent.
    #[error("root-key = \"fetch\" trusts whoever answers at {url}; name the key itself")]
    FetchedRootKey {
        /// The network.
        url: String,
    },
    /// A value that `icp` would take for an option, or that is empty.
    #[error("{name}: {value:?} is empty or begins with '-'")]
    Value {
        /// The name in the configuration.
        name: &'static str,
        /// The value.
        value: String,
    },
}

impl IcpConfig {
    /// Returns the arguments that say which network, and which identity.
    pub(super) fn arguments(&self) -> Result<Arguments, IcpConfigError> {
        for (name, value) in [
            ("environment", &self.environment),
            ("network", &self.network),
            ("identity", &self.identity),
        ] {
            if let Some(value) = value
                && (value.is_empty() || value.starts_with('-'))
            {
                return Err(IcpConfigError::Value { name, value: value.clone() });
            }
        }
        let (place, network) = match (&self.environment, &self.network) {
            (Some(environment), None) => {
                if self.root_key.is_some() {
                    return Err(IcpConfigError::UnusedRootKey);
                }
                (environment.clone(), vec!["-e".to_owned(), environment.clone()])
            }
            (None, Some(network)) => {
                let mut arguments = vec!["-n".to_owned(), network.clone()];
                if let Some(key) = self.checked_root_key(network)? {
                    arguments.extend(["-k".to_owned(), key.to_owned()]);
                }
                (network.clone(), arguments)
            }
            _ => return Err(IcpConfigError::Network),
        };
        let identity =
            self.identity.iter().flat_map(|name| ["--identity".to_owned(), name.clone()]);
        Ok(Arguments { place, network, identity: identity.collect() })
    }

    fn checked_root_key(&self, network: &str) -> Result<Option<&str>, IcpConfigError> {
        let is_url = network.contains("://");
        let Some(key) = self.root_key.as_deref() else {
            let url = network.to_owned();
            return if is_url { Err(IcpConfigError::NoRootKey { url }) } else { Ok(None) };
        };
        let is_hex = key.len() == ROOT_KEY_DIGITS && key.bytes().all(|b| b.is_ascii_hexdigit());
        match key {
            _ if !is_url => Err(IcpConfigError::UnusedRootKey),
            "fetch" if !is_loopback(network) => {
                Err(IcpConfigError::FetchedRootKey { url: network.to_owned() })
            }
            "mainnet" | "fetch" => Ok(Some(key)),
            _ if is_hex => Ok(Some(key)),
            _ => Err(IcpConfigError::RootKey),
        }
    }
}

/// Says whether a URL names this machine. What programs read in different ways is somewhere else.
fn is_loopback(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.strip_prefix('[').map_or_else(
        || authority.split(':').next().unwrap_or_default(),
        |host| host.split(']').next().unwrap_or_default(),
    );
    let address = host.parse::<std::net::IpAddr>();
    !url.contains(['@', '\\'])
        && (host == "localhost" || address.is_ok_and(|address| address.is_loopback()))
}

/// Arguments that every command gets.
#[derive(Clone, Debug)]
pub(super) struct Arguments {
    /// The network or environment, for people.
    pub place: String,
    /// Which network.
    pub network: Vec<String>,
    /// Which identity.
    pub identity: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(url: &str, key: Option<&str>) -> Result<Vec<String>, IcpConfigError> {
        let (network, root_key) = (Some(url.to_owned()), key.map(str::to_owned));
        let config = IcpConfig { network, root_key, ..IcpConfig::default() };
        config.arguments().map(|arguments| arguments.network)
    }

    #[test]
    fn a_network_is_named_once_and_can_be_verified() {
        assert_eq!(IcpConfig::default().arguments().unwrap_err(), IcpConfigError::Network);
        let environment = Some("staging".to_owned());
        let mut config = IcpConfig { environment, ..IcpConfig::default() };
        assert_eq!(config.arguments().unwrap().network, ["-e", "staging"]);
        config.root_key = Some("mainnet".into());
        assert_eq!(config.arguments().unwrap_err(), IcpConfigError::UnusedRootKey);
        config.network = Some("ic".into());
        assert_eq!(config.arguments().unwrap_err(), IcpConfigError::Network);

        assert_eq!(network("ic", None).unwrap(), ["-n", "ic"]);
        assert_eq!(network("ic", Some("mainnet")), Err(IcpConfigError::UnusedRootKey));
        let url = "https://icp-api.io";
        assert_eq!(network(url, Some("mainnet")).unwrap(), ["-n", url, "-k", "mainnet"]);
        assert!(network(url, Some(&"0a".repeat(133))).is_ok());
        assert_eq!(network(url, Some(&"0a".repeat(132))), Err(IcpConfigError::RootKey));
        assert!(matches!(network(url, None), Err(IcpConfigError::NoRootKey { .. })));
        assert!(matches!(network("-x", None), Err(IcpConfigError::Value { .. })));
    }

    #[test]
    fn a_root_key_is_fetched_from_this_machine_only() {
        for here in ["http://localhost:4943", "http://127.0.0.1:8000/", "http://[::1]:1"] {
            assert!(network(here, Some("fetch")).is_ok(), "{here}");
        }
        for elsewhere in [
            "https://icp-api.io",
            "http://localhost.example.com",
            "http://localhost@example.com",
            "http://127.0.0.1.example.com:80",
            "http://127.0.0.1\\@example.com",
            "http://10.0.0.1",
        ] {
            let refused = network(elsewhere, Some("fetch"));
            assert!(matches!(refused, Err(IcpConfigError::FetchedRootKey { .. })), "{elsewhere}");
        }
    }
}

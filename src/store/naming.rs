//! References: how people name generations, members and paths.
//!
//! `name`, `name@latest`, `name@g3`, and each with `:member/path`.

use super::Error;
use super::history::missing;
use crate::format::manifest::label_fault;
use crate::format::record::{GenerationName, GenerationNumber};
use crate::log::{self, Log};

/// Which generation of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest visible one.
    Latest,
    /// One by number.
    Number(GenerationNumber),
}

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The deployment.
    pub deployment: String,
    /// The generation.
    pub which: Which,
    /// `member` or `member/path`, raw; `None` means everything.
    pub path: Option<Vec<u8>>,
}

impl Reference {
    /// Parses a reference; the path may be any bytes.
    ///
    /// # Errors
    /// [`Error::BadReference`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let bad = |reason| Error::BadReference {
            text: String::from_utf8_lossy(text).into_owned(),
            reason,
        };
        let (name, path) = match text.iter().position(|byte| *byte == b':') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let name = std::str::from_utf8(name).map_err(|_| bad("the name is not UTF-8"))?;
        let (deployment, which) = match name.split_once('@') {
            None => (name, Which::Latest),
            Some((deployment, "latest")) => (deployment, Which::Latest),
            Some((deployment, number)) => {
                let number = number
                    .strip_prefix('g')
                    .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|digits| digits.parse().ok())
                    .filter(|number| *number > 0)
                    .ok_or_else(|| bad("after '@' comes 'latest' or 'g' and a number from 1"))?;
                (deployment, Which::Number(GenerationNumber(number)))
            }
        };
        if label_fault(deployment).is_some() {
            return Err(bad("it begins with the name of a deployment"));
        }
        let path = path.map(trim_slashes).filter(|path| !path.is_empty()).map(<[u8]>::to_vec);
        Ok(Self { deployment: deployment.to_owned(), which, path })
    }
}

fn trim_slashes(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

/// Checks a name of a deployment or member given by a person.
///
/// # Errors
/// [`Error::BadLabel`].
pub fn parse_label(what: &'static str, label: &str) -> Result<String, Error> {
    match label_fault(label) {
        None => Ok(label.to_owned()),
        Some(fault) => {
            Err(Error::BadLabel(super::LabelError { what, label: label.to_owned(), fault }))
        }
    }
}

/// Resolves a reference in a log.
pub(super) fn resolve(log: &Log, reference: &Reference) -> Result<log::Generation, Error> {
    let generations = log.generations();
    let name = &reference.deployment;
    let own = generations.iter().filter(|generation| generation.deployment == *name);
    let found = match reference.which {
        Which::Latest => own.max_by_key(|generation| generation.number),
        Which::Number(number) => own.into_iter().find(|generation| generation.number == number),
    };
    found.cloned().ok_or_else(|| {
        let generation = match reference.which {
            Which::Number(number) => number,
            Which::Latest => GenerationNumber(0),
        };
        missing(log, &GenerationName { deployment: name.clone(), generation })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Reference, Error> {
        Reference::parse(text.as_bytes())
    }

    #[test]
    fn references_parse() {
        let orders = |which, path: Option<&str>| Reference {
            deployment: "orders".into(),
            which,
            path: path.map(|path| path.as_bytes().to_vec()),
        };
        let third = Which::Number(GenerationNumber(3));
        assert_eq!(parse("orders").unwrap(), orders(Which::Latest, None));
        assert_eq!(parse("orders@latest").unwrap(), orders(Which::Latest, None));
        assert_eq!(parse("orders@g3").unwrap(), orders(third, None));
        assert_eq!(parse("orders@g3:api/a:b@c").unwrap(), orders(third, Some("api/a:b@c")));
        assert_eq!(parse("orders:/api/").unwrap(), orders(Which::Latest, Some("api")));
        for bad in ["", "@g1", "orders@", "orders@3", "orders@g0", "orders@g", "a/b", "orders@g-1"]
        {
            assert!(matches!(parse(bad), Err(Error::BadReference { .. })), "{bad}");
        }
    }
}

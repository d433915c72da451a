//! Selection: which member is the root, and which one a scope is about.

use super::{Error, Request};
use crate::run::facts::Scope;
use crate::run::inventory::Inventory;

/// Returns the root of the deployment.
pub(super) fn root_of(request: &Request, inventory: &Inventory) -> Result<String, Error> {
    if let Some(root) = &request.root {
        return select(root, inventory);
    }
    let tops: Vec<_> = inventory.rows().iter().filter(|row| row.parent.is_none()).collect();
    match (tops.as_slice(), request.scope) {
        // The root matters only where it is left out.
        ([top, ..], Scope::MaintenanceRoot) | ([top], _) => Ok(top.id.clone()),
        (tops, _) => {
            let members = tops.iter().map(|row| row.id.clone()).collect();
            Err(Error::AmbiguousRoot { members })
        }
    }
}

/// Returns the member that the scope selects, if it selects one.
pub(super) fn selected_of(
    request: &Request,
    inventory: &Inventory,
    root: &str,
) -> Result<Option<String>, Error> {
    let scope = request.scope.name();
    match (request.scope, &request.selector) {
        (Scope::Member | Scope::Subtree, None) => Err(Error::NoSelector { scope }),
        (Scope::Member | Scope::Subtree, Some(selector)) => {
            let selected = select(selector, inventory)?;
            if selected == root {
                return Err(Error::RootSelected { root: selected });
            }
            Ok(Some(selected))
        }
        (Scope::NonRootDeployment | Scope::MaintenanceRoot, None) => Ok(None),
        (Scope::MaintenanceRoot, Some(selector)) if select(selector, inventory)? == root => {
            Ok(Some(root.to_owned()))
        }
        (_, Some(selector)) => Err(Error::NeedlessSelector { scope, selector: selector.clone() }),
    }
}

/// Finds a member by its identity, or by a role that only one has.
fn select(selector: &str, inventory: &Inventory) -> Result<String, Error> {
    if let Some((row, _)) = inventory.get(selector) {
        return Ok(row.id.clone());
    }
    let rows = inventory.rows();
    let matches: Vec<String> = rows
        .iter()
        .filter(|row| row.role.as_deref() == Some(selector))
        .map(|row| row.id.clone())
        .collect();
    let selector = selector.to_owned();
    match matches.len() {
        1 => Ok(matches.into_iter().next().unwrap_or_default()),
        0 => {
            let mut known: Vec<String> = rows
                .iter()
                .flat_map(|row| [Some(row.id.clone()), row.role.clone()])
                .flatten()
                .collect();
            known.sort_unstable();
            known.dedup();
            Err(Error::UnknownSelector { selector, known })
        }
        _ => Err(Error::AmbiguousSelector { selector, matches }),
    }
}

//! `package-check`: licences, duplicate versions and the number of packages in the lock file.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace;

/// `xtask/supply_chain.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    /// Most packages that the lock file may hold.
    most_packages: usize,
    /// Licences of which one must be offered.
    licences: BTreeSet<String>,
    /// Packages that may stand in the lock file in several versions, and why.
    duplicates: BTreeMap<String, String>,
}

/// Prints what breaks the policy; fails if something does.
pub fn check() -> Result<()> {
    let path = workspace::root().join("xtask/supply_chain.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy: Policy = toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))?;
    let metadata = workspace::metadata(true)?;
    let mut faults = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
        let licence = package.license.as_deref().unwrap_or("none stated");
        if !is_allowed(licence, &policy.licences) {
            faults.push(format!("{} {}: licence {licence} is not in the list", package.name, package.version));
        }
    }
    for (name, versions) in &versions {
        if versions.len() > 1 && !policy.duplicates.contains_key(*name) {
            let list = versions.iter().cloned().collect::<Vec<_>>().join(", ");
            faults.push(format!("{name} is there in several versions: {list}"));
        }
    }
    let stale = policy.duplicates.keys().filter(|name| versions.get(name.as_str()).is_none_or(|v| v.len() < 2));
    faults.extend(stale.map(|name| format!("{name} is listed as a duplicate but is none")));
    if metadata.packages.len() > policy.most_packages {
        faults.push(format!("{} packages, more than {}", metadata.packages.len(), policy.most_packages));
    }
    if faults.is_empty() {
        println!("package-check: {} packages, licences and versions are in order", metadata.packages.len());
        return Ok(());
    }
    for fault in &faults {
        eprintln!("package-check: {fault}");
    }
    bail!("{} faults (policy: xtask/supply_chain.toml)", faults.len())
}

/// Whether an SPDX expression can be satisfied by the allowed licences. OR binds looser than AND; parentheses are
/// flattened, which errs on the strict side.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    flat.split(" OR ").any(|all| all.split(" AND ").all(|one| allowed.contains(one.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = BTreeSet::from(["MIT".to_owned(), "BSD-3-Clause".to_owned()]);
        assert!(is_allowed("MIT OR Apache-2.0", &allowed));
        assert!(is_allowed("Apache-2.0/MIT", &allowed));
        assert!(is_allowed("MIT AND BSD-3-Clause", &allowed));
        assert!(!is_allowed("MIT AND GPL-2.0", &allowed));
        assert!(!is_allowed("none stated", &allowed));
    }
}

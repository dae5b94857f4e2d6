//! `layers`: dependencies point down only, and unsafe code stays where `layers.toml` allows it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Package};

use crate::workspace::{self, Layers};

const IMPLEMENTATIONS: u8 = 2;
const SERVICE: u8 = 5;

/// Prints every violation; fails if there is one.
pub fn check() -> Result<()> {
    let layers = Layers::read()?;
    let metadata = workspace::metadata(false)?;
    let mut violations = Vec::new();
    for package in metadata.workspace_packages() {
        if package.name.as_str() == "xtask" {
            continue;
        }
        violations.extend(dependency_violations(package, &layers));
        violations.extend(unsafe_violations(package, &layers)?);
    }
    for name in layers.layers.keys().chain(layers.unsafe_code.keys()) {
        if !metadata.packages.iter().any(|package| package.name.as_str() == name) {
            violations.push(format!("layers.toml names {name}, which is not in the workspace"));
        }
    }
    if violations.is_empty() {
        println!("layers: {} crates, every dependency points down", layers.layers.len());
        return Ok(());
    }
    for violation in &violations {
        eprintln!("layers: {violation}");
    }
    bail!("{} violations of the layer rules (see layers.toml)", violations.len())
}

fn dependency_violations(package: &Package, layers: &Layers) -> Vec<String> {
    let name = package.name.as_str();
    let Some(&layer) = layers.layers.get(name) else {
        return vec![format!("{name} has no layer: add it to layers.toml")];
    };
    let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
    // Tests may look down and sideways to build a scene; the product may not.
    let ours = ours.filter(|dependency| dependency.kind != DependencyKind::Development);
    ours.filter_map(|dependency| {
        let below = *layers.layers.get(&dependency.name)?;
        let reason = forbidden(layer, below, &dependency.name, layers)?;
        Some(format!("{name} (layer {layer}) uses {} (layer {below}): {reason}", dependency.name))
    })
    .collect()
}

/// Why a crate of `layer` may not use `dependency` of layer `below`.
fn forbidden(layer: u8, below: u8, dependency: &str, layers: &Layers) -> Option<&'static str> {
    if below > layer {
        return Some("dependencies point down only");
    }
    if layer == IMPLEMENTATIONS && below == IMPLEMENTATIONS {
        return Some("an implementation never sees another one");
    }
    let restricted = (1..SERVICE).contains(&below) && layer >= SERVICE;
    if restricted && !layers.service_may_use.iter().any(|name| name == dependency) {
        return Some("the service and the doors link no device, disk or worker code");
    }
    None
}

fn unsafe_violations(package: &Package, layers: &Layers) -> Result<Vec<String>> {
    let name = package.name.as_str();
    if layers.unsafe_code.contains_key(name) {
        return Ok(Vec::new());
    }
    let mut violations = Vec::new();
    let manifest = package.manifest_path.as_std_path();
    let text = std::fs::read_to_string(manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let table: toml::Table = toml::from_str(&text)?;
    let inherits = table.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    if inherits != Some(true) {
        violations.push(format!("{name} does not take the workspace's lints ([lints] workspace = true)"));
    }
    let folder = manifest.parent().context("a manifest stands in a folder")?;
    for file in rust_files(folder)? {
        let source = std::fs::read_to_string(&file)?;
        if source.contains("(unsafe_code") {
            violations.push(format!("{} allows unsafe code, but {name} is not in [unsafe]", file.display()));
        }
    }
    Ok(violations)
}

/// Every `.rs` file of a crate's folder.
fn rust_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Layers {
        Layers {
            service_may_use: vec!["bulkhead_worker_protocol".into()],
            layers: Default::default(),
            unsafe_code: Default::default(),
        }
    }

    #[test]
    fn a_dependency_upwards_is_refused() {
        assert!(forbidden(0, 1, "bulkhead_engine", &table()).is_some());
        assert!(forbidden(1, 1, "bulkhead_engine", &table()).is_none());
    }

    #[test]
    fn an_implementation_does_not_see_another() {
        assert!(forbidden(2, 2, "bulkhead_vhd", &table()).is_some());
        assert!(forbidden(3, 2, "bulkhead_vhd", &table()).is_none());
    }

    #[test]
    fn the_service_sees_only_what_is_listed() {
        assert!(forbidden(5, 2, "bulkhead_vhd", &table()).is_some());
        assert!(forbidden(6, 1, "bulkhead_worker_protocol", &table()).is_none());
        assert!(forbidden(6, 0, "bulkhead_ids", &table()).is_none());
    }
}

//! `map`: docs/map.md, one line per crate, from the first doc line of its root module.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use cargo_metadata::Package;

use crate::workspace;

const HEAD: &str =
    "# Map\n\nEvery crate and what lives there, from the first doc line of each. Written by `cargo xtask map`.\n";

/// Writes the map, or with `check` fails if it is not what would be written.
pub fn run(check: bool) -> Result<()> {
    let path = workspace::root().join("docs/map.md");
    let fresh = render()?;
    if !check {
        return std::fs::write(&path, fresh).with_context(|| format!("cannot write {}", path.display()));
    }
    let present = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if present != fresh {
        bail!("docs/map.md is stale: run `cargo xtask map`");
    }
    println!("map: fresh");
    Ok(())
}

fn render() -> Result<String> {
    let metadata = workspace::metadata(false)?;
    let mut parts: BTreeMap<String, Vec<&Package>> = BTreeMap::new();
    for package in metadata.workspace_packages() {
        parts.entry(workspace::part(package)).or_default().push(package);
    }
    let mut text = String::from(HEAD);
    for (part, mut packages) in parts {
        packages.sort_by_key(|package| package.manifest_path.clone());
        write!(text, "\n## {part}/\n\n| crate | folder | what lives there |\n|---|---|---|\n")?;
        for package in packages {
            let folder = package.manifest_path.parent().context("a manifest stands in a folder")?;
            let folder = folder.as_std_path().strip_prefix(workspace::root())?;
            writeln!(text, "| `{}` | `{}` | {} |", package.name, folder.display(), first_doc_line(package)?)?;
        }
    }
    Ok(text)
}

fn first_doc_line(package: &Package) -> Result<String> {
    let is_root = |target: &&cargo_metadata::Target| target.is_lib() || target.is_bin();
    let target = package.targets.iter().find(is_root).with_context(|| format!("{} has no code", package.name))?;
    let source = std::fs::read_to_string(&target.src_path)?;
    let mut lines = source.lines().skip_while(|line| !line.starts_with("//!"));
    let mut sentence = String::new();
    // The first sentence may run over several lines; the map shows it whole.
    while let Some(line) = lines.next().and_then(|line| line.strip_prefix("//!")) {
        if line.trim().is_empty() {
            break;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(line.trim());
        if sentence.ends_with('.') {
            break;
        }
    }
    if sentence.is_empty() {
        bail!("{} does not begin with a doc line that says what lives there", target.src_path);
    }
    Ok(sentence)
}

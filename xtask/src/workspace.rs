//! The workspace as cargo sees it, and as `layers.toml` describes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package};
use serde::Deserialize;

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace root")
}

/// A program of the release build.
pub fn release_program(name: &str) -> std::path::PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    target.join("release").join(name)
}

/// `cargo metadata`, with or without the packages that are not ours.
pub fn metadata(with_dependencies: bool) -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.current_dir(root());
    if !with_dependencies {
        command.no_deps();
    }
    command.exec().context("cargo metadata failed")
}

/// The part of the product that a crate belongs to: its top-level folder.
pub fn part(package: &Package) -> String {
    let path = package.manifest_path.as_std_path();
    let inside = path.strip_prefix(root()).unwrap_or(path);
    inside.iter().next().map_or_else(String::new, |folder| folder.to_string_lossy().into_owned())
}

/// `layers.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layers {
    /// Crates of the layers 1 to 4 that the layers 5 and 6 may use.
    pub service_may_use: Vec<String>,
    /// Layer of each crate.
    pub layers: BTreeMap<String, u8>,
    /// Crates that may hold unsafe code, and why.
    #[serde(rename = "unsafe")]
    pub unsafe_code: BTreeMap<String, String>,
}

impl Layers {
    /// Reads the table.
    pub fn read() -> Result<Self> {
        let path = root().join("layers.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not what it should be", path.display()))
    }
}

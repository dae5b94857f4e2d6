//! Files: definitions of switches, and the ports that exist.

use anyhow::{Context, Result};
use bulkhead_ids::{PortId, SwitchId};
use bulkhead_switch_protocol::{PortSettings, SwitchDefinition, paths};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A port that exists until the host restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    /// Its id.
    pub id: PortId,
    /// Its switch.
    pub switch: SwitchId,
    /// The secret with which it is attached.
    pub ticket: String,
    /// Everything else.
    pub settings: PortSettings,
}

/// Where they are.
#[derive(Clone, Debug)]
pub struct Store {
    definitions: PathBuf,
    ports: PathBuf,
}

impl Store {
    /// Makes the folders below `root` if they are not there.
    ///
    /// # Errors
    /// No permission and the like.
    pub fn open(root: &Path) -> Result<Store> {
        let store = Store { definitions: paths::definitions(root), ports: paths::ports(root) };
        for (folder, mode) in [(&store.definitions, 0o755), (&paths::runtime(root), 0o755), (&store.ports, 0o700)] {
            let made = fs::DirBuilder::new().recursive(true).mode(mode).create(folder);
            made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        Ok(store)
    }

    /// All definitions, and what is wrong with files that are none.
    pub fn definitions(&self) -> (Vec<SwitchDefinition>, Vec<String>) {
        let (read, mut wrong) = read_all::<SwitchDefinition>(&self.definitions);
        let (good, bad): (Vec<_>, Vec<_>) = read.into_iter().partition(|definition| definition.check().is_ok());
        wrong.extend(bad.iter().filter_map(|definition| definition.check().err()));
        (good, wrong)
    }

    /// All ports, and what is wrong with files that are none.
    pub fn ports(&self) -> (Vec<PortRecord>, Vec<String>) {
        read_all(&self.ports)
    }

    /// Writes a definition, so that it survives a loss of power.
    ///
    /// # Errors
    /// The disk is full and the like.
    pub fn write_definition(&self, definition: &SwitchDefinition) -> Result<()> {
        write(&self.definitions, &definition.id.to_string(), definition, 0o644)
    }

    /// Removes a definition.
    ///
    /// # Errors
    /// No permission and the like.
    pub fn remove_definition(&self, id: SwitchId) -> Result<()> {
        remove(&self.definitions, &id.to_string())
    }

    /// Writes a port.
    ///
    /// # Errors
    /// No memory and the like.
    pub fn write_port(&self, record: &PortRecord) -> Result<()> {
        write(&self.ports, &record.id.to_string(), record, 0o600)
    }

    /// Removes a port.
    ///
    /// # Errors
    /// No permission and the like.
    pub fn remove_port(&self, id: PortId) -> Result<()> {
        remove(&self.ports, &id.to_string())
    }
}

fn read_all<T: DeserializeOwned>(folder: &Path) -> (Vec<T>, Vec<String>) {
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return (good, vec![format!("{}: {error}", folder.display())]),
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    for path in files {
        let text = fs::read_to_string(&path).map_err(anyhow::Error::new);
        match text.and_then(|text| Ok(toml::from_str(&text)?)) {
            Ok(value) => good.push(value),
            Err(error) => wrong.push(format!("{}: {error:#}", path.display())),
        }
    }
    (good, wrong)
}

fn write<T: Serialize>(folder: &Path, name: &str, value: &T, mode: u32) -> Result<()> {
    let text = toml::to_string(value)?;
    let (path, new) = (folder.join(format!("{name}.toml")), folder.join(format!("{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(folder)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn remove(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(format!("{name}.toml"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

//! `guests`: the guests that tests, demo and benches boot, made from Debian packages below `target/guests`.
//!
//! A recipe makes one folder. It is made again when the recipe or a package that it is made of has another version: both stand
//! in the folder's stamp. Nothing needs root but the Debian disk (`debian`), whose files must belong to root.

mod debs;
mod disk;
mod grub;
mod initramfs;
mod services;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// How a guest is made.
struct Recipe {
    /// Its name and folder.
    name: &'static str,
    /// Raise it when the recipe changes what it makes.
    version: u32,
    /// Packages whose versions matter.
    packages: &'static [&'static str],
    /// Fills the folder.
    make: fn(&Path) -> Result<()>,
}

/// All guests.
const RECIPES: &[Recipe] = &[
    Recipe { name: "kernel-cloud", version: 1, packages: &["linux-image-cloud-amd64"], make: debs::cloud_kernel },
    Recipe { name: "kernel-generic", version: 1, packages: &["linux-image-amd64"], make: debs::generic_kernel },
    Recipe { name: "kernel-686-pae", version: 1, packages: &["linux-image-686-pae:i386"], make: debs::pae_kernel },
    Recipe { name: "kernel-686", version: 1, packages: &["linux-image-686:i386"], make: debs::i386_kernel },
    Recipe { name: "busybox", version: 1, packages: &["busybox-static"], make: initramfs::busybox },
    Recipe { name: "busybox-i386", version: 1, packages: &["busybox-static:i386"], make: initramfs::busybox_i386 },
    Recipe { name: "programs", version: 2, packages: initramfs::PROGRAMS, make: initramfs::programs },
    Recipe { name: "services", version: 1, packages: services::PACKAGES, make: services::make },
    Recipe { name: "debian", version: 1, packages: &["linux-image-amd64", "systemd"], make: disk::debian },
    Recipe { name: "grub-media", version: 1, packages: &["grub-pc-bin"], make: grub::media },
];

/// Where the guest `name` is.
pub fn folder(name: &str) -> PathBuf {
    workspace::root().join("target/guests").join(name)
}

/// Makes the named guests, or all of them.
pub fn run(names: &[String]) -> Result<()> {
    let all = || RECIPES.iter().map(|recipe| recipe.name).collect::<Vec<_>>().join(", ");
    if let Some(wrong) = names.iter().find(|name| !RECIPES.iter().any(|recipe| recipe.name == name.as_str())) {
        bail!("there is no guest {wrong}; the guests are: {}", all());
    }
    debs::update_lists()?;
    for recipe in RECIPES {
        if names.is_empty() || names.iter().any(|name| name == recipe.name) {
            make(recipe)?;
        }
    }
    Ok(())
}

fn make(recipe: &Recipe) -> Result<()> {
    let folder = folder(recipe.name);
    let stamp_file = folder.join("stamp");
    let stamp = stamp(recipe)?;
    if std::fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        println!("{:<16} is fresh", recipe.name);
        return Ok(());
    }
    println!("{:<16} is made", recipe.name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    (recipe.make)(&folder).with_context(|| format!("cannot make the guest {}", recipe.name))?;
    // Last, so that a broken run is made again.
    std::fs::write(&stamp_file, stamp).context("cannot write the stamp")
}

fn stamp(recipe: &Recipe) -> Result<String> {
    let mut stamp = format!("recipe {} {}\n", recipe.name, recipe.version);
    for package in recipe.packages {
        stamp += &format!("{package} {}\n", debs::version(package)?);
    }
    Ok(stamp)
}

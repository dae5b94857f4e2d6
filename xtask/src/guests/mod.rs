//! `guests`: the guests that tests, demo and benches boot, made from Debian packages below `target/guests`.
//!
//! A recipe makes one folder. It is made again when the recipe or a package that it is made of has another version: both stand
//! in the folder's stamp. Nothing needs root but the Debian disk (`debian`), whose files must belong to root.

mod bare;
mod debs;
mod disk;
mod grub;
mod initramfs;
mod services;
mod storage;

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
    /// Guests in front of it that it is made of.
    needs: &'static [&'static str],
    /// Fills the folder.
    make: fn(&Path) -> Result<()>,
}

/// A recipe that needs no other guest.
const fn recipe(
    name: &'static str,
    version: u32,
    packages: &'static [&'static str],
    make: fn(&Path) -> Result<()>,
) -> Recipe {
    Recipe { name, version, packages, needs: &[], make }
}

/// All guests.
const RECIPES: &[Recipe] = &[
    recipe("kernel-cloud", 2, &["linux-image-cloud-amd64"], debs::cloud_kernel),
    recipe("kernel-generic", 1, &["linux-image-amd64"], debs::generic_kernel),
    recipe("kernel-686-pae", 1, &["linux-image-686-pae:i386"], debs::pae_kernel),
    recipe("kernel-686", 1, &["linux-image-686:i386"], debs::i386_kernel),
    recipe("busybox", 2, &["busybox-static"], initramfs::busybox),
    recipe("busybox-i386", 2, &["busybox-static:i386"], initramfs::busybox_i386),
    recipe("programs", 3, initramfs::PROGRAMS, initramfs::programs),
    recipe("programs-i386", 2, initramfs::PROGRAMS, initramfs::programs_i386),
    recipe("services", 2, services::PACKAGES, services::make),
    recipe("storage", 1, storage::PACKAGES, storage::amd64),
    recipe("storage-i386", 1, storage::PACKAGES_I386, storage::i386),
    recipe("debian", 1, &["linux-image-amd64", "systemd"], disk::debian),
    recipe("grub-media", 1, &["grub-pc-bin"], grub::media),
    Recipe {
        needs: &["kernel-686-pae", "kernel-686", "busybox-i386"],
        ..recipe("boot-cds", 1, &["grub-pc-bin", "memtest86+"], grub::cds)
    },
    recipe("bare", 2, &["gcc"], bare::programs),
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
    let needed: Vec<&str> = RECIPES
        .iter()
        .filter(|recipe| names.iter().any(|name| name == recipe.name))
        .flat_map(|recipe| recipe.needs.iter().copied())
        .collect();
    for recipe in RECIPES {
        let wanted = names.iter().any(|name| name == recipe.name) || needed.contains(&recipe.name);
        if names.is_empty() || wanted {
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

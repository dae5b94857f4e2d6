//! GRUB for BIOS machines: in the gap before the first partition, on a floppy, on a CD. All speak over COM1.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

const MODULES: &str = "/usr/lib/grub/i386-pc";
const SECTOR: u64 = 512;
/// Bytes of the first sector in front of the partition table.
const BOOT_CODE: usize = 440;

/// Makes GRUB's core image, with a configuration inside that reads the rest from `prefix`.
fn core(target: &Path, early: &str, prefix: &str, modules: &[&str]) -> Result<Vec<u8>> {
    let (configuration, image) = (target.join("early.cfg"), target.join("core.img"));
    std::fs::write(&configuration, early).context("cannot write GRUB's configuration")?;
    let mut mkimage = Command::new("grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-d", MODULES, "-p", prefix, "-c"]).arg(&configuration).arg("-o").arg(&image);
    command::run(mkimage.args(modules))?;
    let bytes = std::fs::read(&image).context("cannot read GRUB's image")?;
    std::fs::remove_file(configuration)?;
    std::fs::remove_file(image)?;
    Ok(bytes)
}

/// Writes GRUB's boot code and core image in front of the first partition, which begins at 1 MiB.
pub fn install(disk: &File, target: &Path) -> Result<()> {
    const WANTED: [&str; 16] = [
        "biosdisk",
        "part_msdos",
        "ext2",
        "normal",
        "linux",
        "serial",
        "terminal",
        "echo",
        "test",
        "ls",
        "cat",
        "halt",
        "reboot",
        "configfile",
        "minicmd",
        "search",
    ];
    let core =
        core(target, "set root=(hd0,msdos1)\nset prefix=(hd0,msdos1)/boot/grub\n", "(hd0,msdos1)/boot/grub", &WANTED)?;
    if core.len() as u64 > (1 << 20) - SECTOR {
        bail!("GRUB's image of {} bytes does not fit in front of the first partition", core.len());
    }
    let boot = std::fs::read(format!("{MODULES}/boot.img")).context("cannot read GRUB's boot code")?;
    // Its default is the core image in the next sector, and a core image expects itself there.
    disk.write_all_at(&boot[..BOOT_CODE], 0).context("cannot write the boot code")?;
    disk.write_all_at(&core, SECTOR).context("cannot write GRUB's image")
}

/// A floppy and two CDs with a menu on COM1 and on the screen.
pub fn media(target: &Path) -> Result<()> {
    let menu = |name: &str| {
        format!(
            "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=-1\n\
             menuentry 'Medium {name}' {{ cat /label; }}\nmenuentry 'Halt' {{ halt; }}\nmenuentry 'Reboot' {{ reboot; }}\n"
        )
    };
    for name in ["one", "two"] {
        let tree = target.join(format!("tree-{name}"));
        std::fs::create_dir_all(tree.join("boot/grub"))?;
        std::fs::write(tree.join("boot/grub/grub.cfg"), menu(name))?;
        std::fs::write(tree.join("label"), format!("LABEL-{name}\n"))?;
        rescue(&target.join(format!("cd-{name}.iso")), &tree)?;
        floppy(target, &tree, name, &menu(name))?;
        std::fs::remove_dir_all(tree)?;
    }
    Ok(())
}

/// How every menu begins.
const TERMINALS: &str =
    "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=0\n";

/// CDs that start something without asking: memtest86+ of both widths, and two kernels for 32-bit processors.
pub fn cds(target: &Path) -> Result<()> {
    let memtest = "linux16 /boot/program console=ttyS0,115200 nosmp";
    for bits in ["ia32", "x64"] {
        let program = PathBuf::from(format!("/boot/memtest86+{bits}.bin"));
        cd(&target.join(format!("memtest-{bits}.iso")), memtest, &[(&program, "program")])?;
    }
    let linux = "linux /boot/vmlinuz console=ttyS0 quiet panic=-1\ninitrd /boot/initrd";
    let initrd = super::folder("busybox-i386").join("initrd");
    for kernel in ["686-pae", "686"] {
        let vmlinuz = super::folder(&format!("kernel-{kernel}")).join("vmlinuz");
        let files: [(&Path, &str); 2] = [(&vmlinuz, "vmlinuz"), (&initrd, "initrd")];
        cd(&target.join(format!("linux-{kernel}.iso")), linux, &files)?;
    }
    Ok(())
}

/// A CD with files in `/boot` that does what `script` says.
fn cd(path: &Path, script: &str, files: &[(&Path, &str)]) -> Result<()> {
    let tree = path.with_extension("tree");
    let boot = tree.join("boot");
    std::fs::create_dir_all(boot.join("grub"))?;
    for (file, name) in files {
        std::fs::copy(file, boot.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    std::fs::write(boot.join("grub/grub.cfg"), format!("{TERMINALS}{script}\nboot\n"))?;
    rescue(path, &tree)?;
    std::fs::remove_dir_all(tree).context("cannot remove the tree of a CD")
}

fn rescue(path: &Path, tree: &Path) -> Result<()> {
    let mut rescue = Command::new("grub-mkrescue");
    rescue.args(["-d", MODULES, "--fonts=", "--locales=", "--themes=", "-o"]).arg(path).arg(tree);
    command::run(rescue.stdout(std::io::stderr()))
}

/// 1.44 MB with GRUB in its reserved sectors and a FAT file system behind them.
fn floppy(target: &Path, tree: &Path, name: &str, menu: &str) -> Result<()> {
    const SIZE: u64 = 1440 * 1024;
    const MODULES_WANTED: [&str; 10] =
        ["biosdisk", "fat", "normal", "serial", "terminal", "cat", "halt", "reboot", "minicmd", "echo"];
    let core = core(target, &format!("set root=(fd0)\n{menu}"), "(fd0)/boot/grub", &MODULES_WANTED)?;
    let reserved = core.len() as u64 / SECTOR + 2;
    let path = target.join(format!("floppy-{name}.img"));
    let image =
        File::options().read(true).write(true).create_new(true).open(&path).context("cannot create the floppy")?;
    image.set_len(SIZE)?;
    let mut mkfs = Command::new("mkfs.fat");
    mkfs.args(["-F", "12", "-R", &reserved.to_string()]).arg(&path).stdout(std::io::stderr());
    command::run(&mut mkfs)?;
    command::run(Command::new("mcopy").arg("-i").arg(&path).arg(tree.join("label")).arg("::label"))?;
    command::run(Command::new("mcopy").arg("-s").arg("-i").arg(&path).arg(tree.join("boot")).arg("::boot"))?;
    let mut boot = std::fs::read(format!("{MODULES}/boot.img")).context("cannot read GRUB's boot code")?;
    // The file system's parameters stay.
    let mut parameters = [0; 59];
    image.read_exact_at(&mut parameters, 3)?;
    boot[3..62].copy_from_slice(&parameters);
    image.write_all_at(&boot[..BOOT_CODE], 0)?;
    image.write_all_at(&[0x55, 0xaa], 510)?;
    image.write_all_at(&core, SECTOR).context("cannot write GRUB's image")
}

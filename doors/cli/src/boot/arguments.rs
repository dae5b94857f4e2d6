//! What can be said on the command line.

use bulkhead_vm_description::{ChangeTracking, Medium, ParseSizeError, Size};
use clap::Args;
use std::num::ParseIntError;
use std::path::PathBuf;

/// Options of `bulkhead boot`.
#[derive(Debug, Args)]
#[command(
    after_help = "The guest's first serial port is this terminal: Ctrl-A X ends the VM, Ctrl-A Ctrl-A types a Ctrl-A.\n\
    Exit codes: 0 power-off or end by you, 1 failed, 2 usage; with --no-reboot 10 on guest reset, 11 on triple fault;\n\
    with --test-devices twice the value at the exit port plus 1."
)]
pub struct Arguments {
    /// What executes the guest: auto, soft, kvm
    #[arg(long, default_value = "auto", value_name = "ENGINE")]
    pub engine: String,
    /// How the software engine executes: auto, interpreter, translator, lockstep (for tests)
    #[arg(long, default_value = "auto", value_name = "TIER")]
    pub tier: String,
    /// Virtual processors
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cpus: u32,
    /// RAM
    #[arg(long, default_value = "512M", value_name = "SIZE")]
    pub memory: Size,
    /// RAM grows up to this as the guest needs it
    #[arg(long, value_name = "SIZE")]
    pub memory_max: Option<Size>,
    /// RAM shrinks down to this when the guest does not need it
    #[arg(long, value_name = "SIZE")]
    pub memory_min: Option<Size>,
    /// Features of the processors: v1 (SSE2), v2 (SSE4.2), v3 (AVX2)
    #[arg(long, default_value = "v2", value_name = "LEVEL")]
    pub cpu_level: String,
    /// Start this kernel without firmware: Linux bzImage, PVH ELF, multiboot
    #[arg(long, value_name = "FILE", conflicts_with_all = ["firmware", "boot"])]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Firmware: bios
    #[arg(long, value_name = "KIND")]
    pub firmware: Option<String>,
    /// Where to boot from first: disk, cd, floppy, net (through a legacy adapter)
    #[arg(long, value_name = "SOURCE")]
    pub boot: Option<String>,
    /// A hard disk: [ide:|scsi:]PATH[,format=vhdx][,ro][,max-iops=N][,max-bandwidth=SIZE][,track=FILE[,bitmap=NAME]…][,merge]
    #[arg(long, value_name = "DISK")]
    pub disk: Vec<String>,
    /// A CD or DVD in a drive of its own
    #[arg(long, value_name = "ISO")]
    pub cdrom: Vec<PathBuf>,
    /// A floppy image in drive A
    #[arg(long, value_name = "IMAGE")]
    pub floppy: Option<PathBuf>,
    /// A network adapter: SWITCH|none[,legacy][,mac=M], nat[,legacy][,mac=M][,host][,forward=[udp:]HOSTPORT:GUESTPORT]…
    /// [,boot-folder=DIR][,boot-file=NAME]; host lets the gateway's address lead to 127.0.0.1 of the host
    #[arg(long, value_name = "NIC")]
    pub nic: Vec<String>,
    /// Serial ports: stdio, file:PATH, unix:PATH, none; the first is COM1, the second COM2
    #[arg(long, value_name = "PORT")]
    pub serial: Vec<String>,
    /// Write what the run took to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// One thread, and time that counts instructions: every run is the same
    #[arg(long)]
    pub deterministic: bool,
    /// End the VM when the guest resets itself
    #[arg(long)]
    pub no_reboot: bool,
    /// Name of the VM, for people
    #[arg(long, default_value = "boot", value_name = "NAME")]
    pub name: String,
    /// Id of the VM; a new one if not given
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,
    /// Integration services, separated by commas: shutdown, time, heartbeat, kvp, vss, file-copy, all, none; all but file-copy
    /// if not given
    #[arg(long, value_name = "SERVICES")]
    pub ic: Option<String>,
    /// A plain PC: no Hyper-V interface, no VMBus
    #[arg(long)]
    pub no_hyperv: bool,
    /// Add the debug ports of bare-metal test programs: exit at F4h, console at E9h
    #[arg(long)]
    pub test_devices: bool,
    /// SIGTERM saves the VM into this folder instead of ending it (files vm.state and vm.memory)
    #[arg(long, value_name = "FOLDER")]
    pub save_to: Option<PathBuf>,
    /// On SIGTERM, write what the display shows to this PNG file first
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
    /// Continue the VM that was saved into this folder; the other options must be those of the saved VM
    #[arg(long, value_name = "FOLDER")]
    pub resume: Option<PathBuf>,
}

impl Arguments {
    /// The disks, as far as they can be understood.
    pub fn disks(&self) -> impl Iterator<Item = Result<DiskArgument, String>> + '_ {
        self.disk.iter().map(|text| text.parse())
    }

    /// Files of the disks that are merged into their parents.
    pub fn merges(&self) -> impl Iterator<Item = String> + '_ {
        self.disks().flatten().filter(|disk| disk.merge).map(|disk| disk.medium.file)
    }
}

/// `[ide:|scsi:]PATH` and options behind commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskArgument {
    /// `ide` or `scsi`.
    pub bus: String,
    /// The image and how it is used.
    pub medium: Medium,
    /// It is merged into its parent while the VM runs.
    pub merge: bool,
}

impl std::str::FromStr for DiskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskArgument, String> {
        let (bus, rest) = match text.split_once(':') {
            Some((bus @ ("ide" | "scsi"), rest)) => (bus, rest),
            _ => ("ide", text),
        };
        let mut medium = Medium::default();
        let (mut bitmaps, mut merge) = (Vec::new(), false);
        // Options stand at the end, so that a path may contain commas.
        let mut path = rest;
        while let Some((front, option)) = path.rsplit_once(',') {
            let wrong = |error: &dyn std::fmt::Display| format!("--disk {text}: {option}: {error}");
            match option.split_once('=') {
                _ if option == "ro" => medium.read_only = true,
                _ if option == "merge" => merge = true,
                Some(("format", format)) => medium.format = Some(format.parse()?),
                Some(("max-iops", number)) => {
                    medium.limits.max_iops = Some(number.parse().map_err(|error: ParseIntError| wrong(&error))?);
                }
                Some(("max-bandwidth", size)) => {
                    medium.limits.max_bandwidth = Some(size.parse().map_err(|error: ParseSizeError| wrong(&error))?);
                }
                Some(("track", file)) => {
                    medium.tracking = Some(ChangeTracking { file: file.into(), bitmaps: Vec::new() });
                }
                Some(("bitmap", name)) => bitmaps.insert(0, name.to_owned()),
                _ => break,
            }
            path = front;
        }
        if path.is_empty() {
            return Err(format!("--disk {text}: the path is missing; write ide:PATH[,format=F][,ro]"));
        }
        match &mut medium.tracking {
            Some(tracking) => tracking.bitmaps = bitmaps,
            None if !bitmaps.is_empty() => {
                return Err(format!("--disk {text}: bitmap= needs track=FILE, where the bitmaps are kept"));
            }
            None => {}
        }
        if merge && medium.read_only {
            return Err(format!("--disk {text}: ro and merge exclude each other: a merged disk goes on in its parent"));
        }
        medium.file = path.into();
        Ok(DiskArgument { bus: bus.into(), medium, merge })
    }
}

#[cfg(test)]
mod tests {
    use super::DiskArgument;
    use bulkhead_vm_description::{ImageFormat, Size};

    #[test]
    fn disks_are_read_with_their_options() {
        let disk = |text: &str| text.parse::<DiskArgument>();
        let plain = disk("a/b.img").unwrap();
        assert_eq!((plain.bus.as_str(), plain.medium.file.as_str(), plain.medium.format), ("ide", "a/b.img", None));
        let full = disk("ide:x,y.bin,format=vhd,ro").unwrap().medium;
        assert_eq!((full.file.as_str(), full.format, full.read_only), ("x,y.bin", Some(ImageFormat::Vhd), true));
        assert_eq!(disk("scsi:a").unwrap().bus, "scsi");
        assert_eq!(disk("c:disk").unwrap().medium.file, "c:disk");
        let slow = disk("a.vhdx,max-iops=500,max-bandwidth=8M,track=a.cbt,bitmap=one,bitmap=two").unwrap().medium;
        assert_eq!(slow.limits.max_iops, Some(500));
        assert_eq!(slow.limits.max_bandwidth, Some(Size::from_bytes(8 << 20)));
        let tracking = slow.tracking.unwrap();
        assert_eq!((tracking.file.as_str(), tracking.bitmaps), ("a.cbt", vec!["one".into(), "two".into()]));
        for (wrong, word) in [
            ("ide:", "path is missing"),
            ("a,format=xyz", "xyz"),
            ("a,max-iops=many", "max-iops=many"),
            ("a,max-bandwidth=-1", "max-bandwidth=-1"),
            ("a,bitmap=one", "needs track="),
            ("a.avhd,ro,merge", "exclude"),
        ] {
            let error = disk(wrong).unwrap_err();
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }
}

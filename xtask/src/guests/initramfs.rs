//! Initial RAM disks: busybox alone, and a tree of Debian programs that runs the program set.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::debs;
use crate::{command, workspace};

/// What the program set is made of.
pub const PROGRAMS: &[&str] = &[
    "busybox-static",
    "coreutils",
    "gzip",
    "xz-utils",
    "zstd",
    "python3-minimal",
    "perl-base",
    "sqlite3",
    "cpp-12",
    "openssl",
];

/// What the programs of the set need beside themselves, where nobody resolves dependencies.
const LIBRARIES: &[&str] = &[
    "dash",
    "sed",
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "zlib1g",
    "liblzma5",
    "libzstd1",
    "liblz4-1",
    "libssl3",
    "libsqlite3-0",
    "libreadline8",
    "libtinfo6",
    "libgmp10",
    "libmpfr6",
    "libmpc3",
    "libisl23",
    "libcrypt1",
    "libacl1",
    "libattr1",
    "libselinux1",
    "libpcre2-8-0",
    "libexpat1",
    "python3.11-minimal",
    "libpython3.11-minimal",
];

/// Reads commands from the console, one a line, and says READY after each. `run=COMMAND` on the kernel's command line is the first.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin:/usr/bin
/bin/busybox mkdir -p /dev /proc /sys /tmp
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
echo FIRST-PROCESS
execute() {
  case \"$1\" in
    off) /bin/busybox poweroff -f ;;
    reboot) /bin/busybox reboot -f ;;
    *) eval \"$1\" ;;
  esac
  echo READY
}
[ -z \"$run\" ] || execute \"$run\"
while read line; do execute \"$line\"; done
";

/// The program set: prints a digest per program, the same everywhere. Runs natively too, in a chroot.
const PROGRAM_SET: &str = "#!/bin/sh
export LC_ALL=C PATH=/usr/bin:/bin PYTHONHASHSEED=0
cd /tmp || exit 1
say() { echo \"$1 $(sha256sum | cut -c1-64)\"; }
cc1=$(ls /usr/lib/gcc/*/*/cc1)
head -c 3800000 $cc1 > data
i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i | say shell-loop
i=0; while [ $i -lt 50 ]; do /bin/busybox true; i=$((i+1)); done; echo $i | say fork-exec
head -c 16777216 /dev/zero | say sha256sum
/usr/bin/gzip -6 -n < data | say gzip
/usr/bin/xz -1 < data | say xz
zstd -3 -q < data | say zstd
python3 -S -c 'd={}
for i in range(60000): d[i%977]=d.get(i%977,0)+i*i%7
print(sorted(d.items()))' | say python3
perl -e 'my %h; for my $i (1..60000) { $h{$i % 1013} .= chr(65 + $i % 26) if \"x$i\" =~ /[1-8]$/ } print map { \"$_=$h{$_}\\n\" } sort keys %h' | say perl
{ echo 'create table t(a integer, b text); begin;'; i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo \"insert into t values($i, 'row $i');\"; done
  echo 'commit; create index x on t(b); select count(*), sum(a) from t where b like \"row 3%\"; select b from t order by b desc limit 5;'; } | sqlite3 | say sqlite3
{ i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo \"double f$i(double x, int n) { double s = $i; for (int j = 0; j < n; j++) s = s * x + j; return s; }\"; done; } > p.c
$cc1 -quiet -O2 p.c -o p.s && say cc1 < p.s
/usr/bin/sort -r p.s | say sort
head -c 2000000 data | openssl dgst -sha512 | say openssl-sha512
head -c 2000000 data | openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 2>/dev/null | say openssl-aes
echo PROGRAMS-DONE
";

/// Rates of single kinds of instructions, as `rate NAME NUMBER`: larger is faster.
const MICRO_SET: &str = "#!/bin/sh
/micro
speed() { openssl speed -mr -seconds 1 -bytes 8192 \"$@\" 2>/dev/null; }
speed -evp sha256 | sed -n 's/^+F:.*:/rate openssl-sha256 /p'
speed -evp aes-128-gcm | sed -n 's/^+F:.*:/rate openssl-aes-128-gcm /p'
speed rsa2048 | sed -n 's/^+F2:.*:2048:\\(.*\\):.*/rate openssl-rsa-2048-sign \\1/p'
echo MICRO-DONE
";

pub fn busybox(target: &Path) -> Result<()> {
    busybox_of("busybox-static", target)
}

pub fn busybox_i386(target: &Path) -> Result<()> {
    busybox_of("busybox-static:i386", target)
}

fn busybox_of(package: &str, target: &Path) -> Result<()> {
    let (unpacked, root) = (target.join("unpacked"), target.join("root"));
    debs::unpack(package, &unpacked)?;
    std::fs::create_dir_all(root.join("bin"))?;
    std::fs::copy(unpacked.join("bin/busybox"), root.join("bin/busybox")).context("cannot copy busybox")?;
    for applet in ["sh", "cat", "ls", "date", "sleep", "nproc", "uname", "free", "mount", "sha256sum", "head", "grep"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    write_program(&root.join("init"), INIT)?;
    pack(&root, &target.join("initrd"))?;
    std::fs::remove_dir_all(unpacked)?;
    Ok(std::fs::remove_dir_all(root)?)
}

/// Keeps `root`, so that the set can run natively in it.
pub fn programs(target: &Path) -> Result<()> {
    let root = target.join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]);
    mmdebstrap.arg(format!("--include={},libc-bin,base-files,dash,sed", PROGRAMS.join(",")));
    command::run(mmdebstrap.arg("bookworm").arg(&root))?;
    let source = workspace::root().join("guests/bench/micro.c");
    let mut gcc = Command::new("gcc");
    command::run(gcc.args(["-O3", "-static", "-Wall", "-Wextra", "-o"]).arg(root.join("micro")).arg(source))?;
    write_program(&root.join("micro-set"), MICRO_SET)?;
    finish_programs(&root, target)
}

/// The same for 32-bit processors, package by package: the host's own package sources may have no i386.
pub fn programs_i386(target: &Path) -> Result<()> {
    let root = target.join("root");
    for package in PROGRAMS.iter().chain(LIBRARIES) {
        debs::unpack(&format!("{package}:i386"), &root)?;
    }
    // Natively the set runs without a /dev of its own; cc1 wants a folder to look for headers in.
    for (device, minor) in [("null", "3"), ("zero", "5")] {
        std::fs::create_dir_all(root.join("dev"))?;
        command::run(Command::new("mknod").arg("-m666").arg(root.join("dev").join(device)).args(["c", "1", minor]))?;
    }
    std::fs::create_dir_all(root.join("usr/include"))?;
    // One folder of programs, as in the tree that mmdebstrap merges.
    for entry in std::fs::read_dir(root.join("bin")).context("there are no programs")?.flatten() {
        let link = root.join("usr/bin").join(entry.file_name());
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("/bin").join(entry.file_name()), link)?;
        }
    }
    finish_programs(&root, target)
}

fn finish_programs(root: &Path, target: &Path) -> Result<()> {
    for waste in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt", "var/cache"] {
        let _ = std::fs::remove_dir_all(root.join(waste));
    }
    for folder in ["dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    for (link, program) in [("sh", "dash"), ("python3", "python3.11")] {
        if !root.join("bin").join(link).exists() && !root.join("usr/bin").join(link).exists() {
            std::os::unix::fs::symlink(program, root.join("bin").join(link))?;
        }
    }
    write_program(&root.join("init"), INIT)?;
    write_program(&root.join("programs"), PROGRAM_SET)?;
    pack(root, &target.join("initrd"))
}

pub(super) fn write_program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

/// Packs a tree as an uncompressed archive: the guest only copies it.
pub(super) fn pack(root: &Path, file: &Path) -> Result<()> {
    let mut find = Command::new("find").arg(".").current_dir(root).stdout(Stdio::piped()).spawn().context("find")?;
    let names = find.stdout.take().context("find's output is a pipe")?;
    let archive = std::fs::File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    let mut cpio = Command::new("cpio");
    cpio.args(["-o", "-H", "newc", "--quiet", "-R", "0:0"]).current_dir(root).stdin(names).stdout(archive);
    let status = cpio.status().context("cannot start cpio")?;
    if !status.success() || !find.wait()?.success() {
        bail!("packing {} failed", root.display());
    }
    Ok(())
}

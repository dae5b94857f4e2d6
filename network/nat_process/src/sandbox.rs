//! What the process gives up before the first frame: every path of the file system, every privilege, and system calls that a NAT
//! never makes.

use crate::boot_files::BootFolder;
use anyhow::{Context, Result};
use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr};
use rustix::process::{Resource, Rlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// System calls that nothing here makes and an intruder wants. What is not listed stays allowed: a list of what is needed would
/// change with every version of the C library.
const DENIED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_io_uring_setup,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_kill,
    libc::SYS_clone,
    libc::SYS_clone3,
];

/// Gives it up; only files below `folder` can still be opened, for reading. On kernels without Landlock the file system stays visible, with what the user may read.
///
/// # Errors
/// The kernel refuses what every kernel has.
pub fn enter(folder: Option<&BootFolder>) -> Result<()> {
    // Each connection of a guest needs a descriptor.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).context("cannot raise the limit of descriptors")?;
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, no_core).context("cannot switch core dumps off")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    let everything = AccessFs::from_all(ABI::V3);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)
        .and_then(|rules| rules.create())
        .context("cannot close the file system")?;
    if let Some(folder) = folder {
        rules = rules
            .add_rule(PathBeneath::new(folder.as_fd(), AccessFs::ReadFile))
            .context("cannot keep the boot folder open")?;
    }
    rules.restrict_self().context("cannot close the file system")?;
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into().context("no system call filter for this processor")?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program).context("cannot filter system calls")
}

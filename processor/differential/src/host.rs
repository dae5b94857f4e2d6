//! Runs cases on the host processor, in a child process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::case::layout::{CODE_SIZE, IMAGES, SLOT_SIZE, SLOTS};
use crate::case::{Case, Mode, Outcome, image};
use crate::host_child::{self, PATCHES, Shared};

/// Why the host gave no outcome.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The child could not be made.
    #[error("cannot start the child process that runs code on the host: {0}")]
    Start(#[from] io::Error),
    /// The host lacks what the harness itself needs.
    #[error("the host has no AVX: its vector registers cannot be compared")]
    NoAvx,
    /// A case hung the child or killed it.
    #[error("case {index} of the batch (seed {seed:#x}) {what}")]
    Lost {
        /// Position in the batch.
        index: usize,
        /// Its seed.
        seed: u64,
        /// What happened.
        what: &'static str,
    },
}

/// A child process with the code and data pages of [`crate::layout`].
pub struct Host {
    shared: *mut Shared,
    code: *mut u8,
    commands: OwnedFd,
    answers: OwnedFd,
    child: libc::pid_t,
}

/// A batch takes milliseconds; a child that needs this long hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

impl Host {
    /// Starts the child.
    pub fn new() -> Result<Self, HostError> {
        if !std::arch::is_x86_feature_detected!("avx") {
            return Err(HostError::NoAvx);
        }
        let (shared, _) = share("bulkhead-cases", size_of::<Shared>())?;
        let (code, code_file) = share("bulkhead-case-code", CODE_SIZE)?;
        let shared = shared.cast::<Shared>();
        for index in 0..IMAGES {
            // SAFETY: mapped above, large enough; the child does not exist yet.
            unsafe { (*shared).images[index] = *image(index) };
        }
        let (commands_out, commands) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let (answers, answers_in) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        // SAFETY: the child calls only `host_child::main`, which neither allocates nor locks. It closes the parent's
        // pipe ends, so that it sees the end of file when the parent goes away.
        let child = unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::close(commands.as_raw_fd());
                libc::close(answers.as_raw_fd());
                host_child::main(shared, code_file.as_raw_fd(), commands_out.as_raw_fd(), answers_in.as_raw_fd());
            }
            child
        };
        if child < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let mut byte = [0];
        if read(&answers, &mut byte) != Ok(1) {
            return Err(io::Error::other("it ended at once").into());
        }
        Ok(Self { shared, code, commands, answers, child })
    }

    /// Whether the host can run cases of a mode: 16-bit segments need the local descriptor table, which kernels may
    /// be built without.
    pub fn supports(&self, mode: Mode) -> bool {
        // SAFETY: the child has written it before it answered, and does not touch it again.
        mode != Mode::Segmented || unsafe { (*self.shared).segmented }
    }

    /// Runs at most [`crate::layout::SLOTS`] cases, each in the slot it was made for.
    pub fn run(&mut self, cases: &[Case]) -> Result<Vec<Outcome>, HostError> {
        assert!(cases.len() <= SLOTS, "{} cases do not fit into {SLOTS} slots", cases.len());
        // SAFETY: the child waits for a command and touches nothing.
        let shared = unsafe { &mut *self.shared };
        shared.count = cases.len() as u32;
        for (entry, case) in shared.entries.iter_mut().zip(cases) {
            entry.registers = case.registers;
            (entry.code, entry.data) = host_child::selectors(case.mode, case.slot);
            entry.image = case.image as u32;
            entry.patch_count = case.patches.len().min(PATCHES) as u32;
            entry.patches[..case.patches.len()].copy_from_slice(&case.patches);
            assert!(case.code.len() <= SLOT_SIZE && case.slot < SLOTS, "code of {} bytes", case.code.len());
            // SAFETY: inside the code mapping, as just checked.
            unsafe {
                ptr::copy_nonoverlapping(case.code.as_ptr(), self.code.add(case.slot * SLOT_SIZE), case.code.len());
            }
        }
        if !cases.is_empty() {
            self.wait_for_child(cases)?;
        }
        // SAFETY: the child has answered and waits again.
        let shared = unsafe { &*self.shared };
        let outcome = |entry: &host_child::Entry| Outcome {
            registers: entry.result,
            exception: entry.exception,
            memory: Box::new(entry.memory),
        };
        Ok(shared.entries.iter().take(cases.len()).map(outcome).collect())
    }

    fn wait_for_child(&mut self, cases: &[Case]) -> Result<(), HostError> {
        let lost = |what| {
            // SAFETY: an atomic in a live mapping.
            let index = unsafe { (*self.shared).current.load(Ordering::Relaxed) } as usize;
            let seed = cases.get(index).map_or(0, |case| case.seed);
            HostError::Lost { index, seed, what }
        };
        let mut byte = [0];
        if write(&self.commands, &byte).is_err() {
            return Err(lost("found the child dead"));
        }
        match poll(&mut [PollFd::new(&self.answers, PollFlags::IN)], Some(&PATIENCE)) {
            Ok(0) => Err(lost("did not end")),
            _ if read(&self.answers, &mut byte) == Ok(1) => Ok(()),
            _ => Err(lost("killed the child")),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: our own child and mappings.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, ptr::null_mut(), 0);
            let _ = munmap(self.shared.cast(), size_of::<Shared>());
            let _ = munmap(self.code.cast(), CODE_SIZE);
        }
    }
}

/// Shared memory, writable here.
fn share(name: &str, len: usize) -> io::Result<(*mut u8, OwnedFd)> {
    let flags = MemfdFlags::CLOEXEC;
    let file = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    ftruncate(&file, len as u64)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address =
        unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
    Ok((address.cast(), file))
}

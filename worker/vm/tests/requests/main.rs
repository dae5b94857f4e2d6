//! Requests to a running VM, over the worker protocol.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests drive real processes in real time")]

mod hostile;
mod worker;

use bulkhead_ids::VmId;
use bulkhead_vm_description::{DirectKernel, EngineChoice, Size, VmDescription};
use bulkhead_worker_protocol::{Answer, EndedBy, Event, ProblemKind, Request, VmState, resource};
use std::fs::File;
use std::path::Path;
use worker::{Worker, guest_file};

fn vm(memory: &str) -> VmDescription {
    let mut vm = VmDescription::new(VmId::new(), "requests", memory.parse::<Size>().unwrap());
    vm.processor.engine = EngineChoice::Soft;
    vm
}

/// The cloud kernel with a shell.
fn linux() -> Option<VmDescription> {
    let (kernel, initrd) = (guest_file("kernel-cloud/vmlinuz")?, guest_file("busybox/initrd")?);
    let mut vm = vm("256M");
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    vm.direct_kernel = Some(DirectKernel {
        kernel: name(&kernel),
        initrd: Some(name(&initrd)),
        command_line: "console=ttyS0 quiet panic=-1".into(),
    });
    Some(vm)
}

#[test]
fn linux_stands_still_goes_on_and_is_saved() {
    let Some(vm) = linux() else { return };
    let mut worker = Worker::start();
    worker.run(vm.clone());
    worker.expect("FIRST-PROCESS");

    // This kernel has no driver for the button: it does not care.
    worker.done(Request::PowerButton);
    assert!(worker.command("echo still on").contains("still on"));

    worker.done(Request::Pause);
    let Answer::Stats(first) = worker.done(Request::Stats) else { panic!("no stats") };
    let Answer::Stats(second) = worker.done(Request::Stats) else { panic!("no stats") };
    assert_eq!(first.guest_instructions, second.guest_instructions);
    assert_eq!(first.vm_seconds, second.vm_seconds);
    worker.done(Request::Resume);
    worker.command("MARK=kept");
    let states = worker.events.iter().filter_map(|event| match event {
        Event::State { state } => Some(*state),
        _ => None,
    });
    assert_eq!(states.collect::<Vec<_>>(), [VmState::Running, VmState::Paused, VmState::Running]);

    let folder = tempfile::tempdir().unwrap();
    let problem = worker.refused(Request::Save);
    assert!(problem.message.contains(resource::SAVED_STATE), "{problem}");
    assert!(worker.command("echo still $MARK").contains("still kept"));
    for name in [resource::SAVED_STATE, resource::SAVED_MEMORY] {
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join(name)).unwrap();
        worker.pass(name, file);
    }
    worker.done(Request::Save);
    assert_eq!(worker.end(), EndedBy::Saved);

    let mut worker = Worker::start();
    for name in [resource::SAVED_STATE, resource::SAVED_MEMORY] {
        worker.pass(name, File::open(folder.path().join(name)).unwrap());
    }
    worker.restore(vm);
    assert!(worker.command("echo again $MARK").contains("again kept"));
    worker.send("off\n");
    assert_eq!(worker.end(), EndedBy::PowerOff);
}

#[test]
fn a_worker_without_a_vm_refuses_what_needs_one() {
    let mut worker = Worker::start();
    let requests = [
        Request::Pause,
        Request::Reset,
        Request::PowerButton,
        Request::Screenshot,
        Request::Stats,
        Request::Inspect { path: String::new() },
        Request::EjectMedium { drive: "floppy".into() },
    ];
    for request in requests {
        let problem = worker.refused(request.clone());
        assert_eq!(problem.kind, ProblemKind::WrongState, "{request:?}: {problem}");
    }
}

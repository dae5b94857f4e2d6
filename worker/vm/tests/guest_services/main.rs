//! Integration services, input, display, dynamic memory and sockets with a stock Debian kernel and Debian's daemons.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests drive real processes in real time")]

mod worker;

use bulkhead_ids::VmId;
use bulkhead_vm_description::{DynamicMemory, Size, VmDescription};
use bulkhead_worker_protocol::{
    Answer, EndedBy, Event, GuestAnswer, GuestRequest, GuestState, KeyPool, KeyStroke, ProblemKind, Request,
    ShutDownKind,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use worker::Worker;

const MIB: u64 = 1 << 20;

fn description(worker: &Worker) -> VmDescription {
    let mut vm = VmDescription::new(VmId::new(), "services", Size::from_mib(512));
    vm.memory.dynamic = Some(DynamicMemory::new(Size::from_mib(256), Size::from_mib(1024)));
    worker.describe(&mut vm);
    vm
}

#[test]
fn a_debian_guest_is_served() {
    let Some(kernel) = worker::guest() else { return };
    let start = Instant::now();
    let mut worker = Worker::start(kernel);
    let description = Box::new(description(&worker));
    worker.done(Request::Start { description, paused: false });
    worker.wait_for("FIRST-PROCESS\r\n");
    assert_eq!(worker.state().heartbeat.as_deref(), Some("no contact"));
    let early = worker.refused(GuestRequest::ListKeys { pool: KeyPool::Auto });
    assert!(early.kind == ProblemKind::WrongState && early.message.contains("hyperv-daemons"), "{early}");
    worker.run("modprobe dummy; ip link add d0 type dummy; ip addr add 10.9.8.7/24 dev d0; ip link set d0 up");
    worker.run("services");
    let ready = |state: &GuestState| {
        let ready = |name: &str, version: &str| {
            state.services.iter().any(|(n, phase)| n == name && *phase == format!("ready {version}"))
        };
        ready("kvp", "4.0") && ready("shutdown", "3.2") && ready("vss", "5.0") && ready("time", "4.0")
    };
    worker.wait_state("services", ready);
    worker.wait_state("heartbeat", |state| state.heartbeat.as_deref() == Some("ok"));
    let mut last = start;
    let mut step = |what: &str| {
        eprintln!("{what}: {:.1} s", last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    step("boot to services");
    keys_and_values(&mut worker);
    step("keys and values");
    files(&mut worker);
    step("file copy");
    freezing(&mut worker);
    step("freeze and thaw");
    input(&mut worker);
    step("input");
    display(&mut worker);
    step("display");
    sockets(&mut worker);
    step("sockets");
    memory(&mut worker);
    step("memory");
    switches(&mut worker);
    step("switches");
    time(&mut worker);
    step("time");
    worker.ask(GuestRequest::ShutDown { kind: ShutDownKind::PowerOff, force: false, message: "bye".into() });
    worker.wait_for("ORDERLY-POWEROFF");
    let (ended, _) = worker.event("end", |event| matches!(event, Event::Ended { .. }));
    assert!(matches!(ended, Event::Ended { by: EndedBy::PowerOff, .. }), "{ended:?}");
    step("shutdown");
}

fn keys_and_values(worker: &mut Worker) {
    let keys = |worker: &mut Worker, pool| match worker.ask(GuestRequest::ListKeys { pool }) {
        Answer::Guest(GuestAnswer::Keys(keys)) => keys,
        other => panic!("{other:?}"),
    };
    let auto = keys(worker, KeyPool::Auto);
    let value = |name: &str| auto.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("OSName"), Some("Debian GNU/Linux"), "{auto:?}");
    assert!(value("NetworkAddressIPv4").is_some_and(|address| address.contains("10.9.8.7")), "{auto:?}");
    assert_eq!(value("ProcessorArchitecture"), Some("x86_64"));
    let key = || "color".to_owned();
    let pool = KeyPool::External;
    worker.ask(GuestRequest::WriteKey { pool, key: key(), value: "blue".into() });
    // One record: 512 bytes of key and 2048 of value; behind the zeros there is what was in the guest's memory.
    let file = worker.run("f=/var/lib/hyperv/.kvp_pool_0; head -c 5 $f; tail -c 2048 $f | head -c 4; echo");
    assert_eq!(file.trim(), "colorblue");
    let read = worker.ask(GuestRequest::ReadKey { pool, key: key() });
    assert_eq!(read, Answer::Guest(GuestAnswer::Value("blue".into())));
    assert_eq!(keys(worker, pool), [("color".to_owned(), "blue".to_owned())]);
    worker.ask(GuestRequest::DeleteKey { pool, key: key() });
    assert_eq!(worker.refused(GuestRequest::ReadKey { pool, key: key() }).kind, ProblemKind::NotFound);
}

fn files(worker: &mut Worker) {
    let content: Vec<u8> = (0..300_001u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let path = worker::folder().join("file");
    std::fs::write(&path, &content).unwrap();
    let copy = |name: &str| GuestRequest::CopyFile {
        source: "copied".into(),
        folder: "/tmp/new/folder".into(),
        name: name.into(),
        overwrite: false,
        create_folders: true,
    };
    // Off unless somebody wants it.
    worker.pass("copied", File::open(&path).unwrap());
    assert_eq!(worker.refused(copy("a")).kind, ProblemKind::WrongState);
    worker.ask(GuestRequest::SetService { name: "file-copy".into(), on: true });
    worker.run("while [ ! -e /dev/vmbus/hv_fcopy ]; do usleep 100000; done; hv_fcopy_daemon");
    worker.wait_state("file copy", |state| state.services.iter().any(|(n, p)| n == "file-copy" && p == "ready 1.1"));
    worker.pass("copied", File::open(&path).unwrap());
    // The daemon of some Debian kernels does not make folders itself.
    worker.run("mkdir -p /tmp/new/folder");
    worker.ask(copy("a"));
    let ours = std::process::Command::new("sha256sum").arg(&path).output().unwrap().stdout;
    let theirs = worker.run("sha256sum /tmp/new/folder/a");
    assert_eq!(String::from_utf8_lossy(&ours)[..64], theirs[..64]);
    worker.pass("copied", File::open(&path).unwrap());
    let exists = worker.refused(copy("a"));
    assert!(exists.message.contains("the file exists"), "{exists}");
    std::fs::remove_dir_all(worker::folder()).unwrap();
}

fn freezing(worker: &mut Worker) {
    worker.run(
        "modprobe brd rd_nr=1 rd_size=32768; modprobe crc32c_generic; modprobe ext4; mkfs.ext4 -q /dev/ram0; mkdir /mnt; mount /dev/ram0 /mnt",
    );
    let mounted = worker.run("grep /mnt /proc/mounts");
    assert!(mounted.contains("ext4"), "{mounted}");
    let write = |worker: &mut Worker| worker.run("rm -f /tmp/w; (echo x > /mnt/f; sync; echo WRITTEN > /tmp/w) &");
    worker.ask(GuestRequest::Freeze { hold_seconds: 120 });
    write(worker);
    assert_eq!(worker.run("sleep 2; cat /tmp/w 2>/dev/null").trim(), "", "a frozen file system was written");
    worker.ask(GuestRequest::Thaw);
    worker.run("while [ ! -e /tmp/w ]; do usleep 100000; done");
    // Nobody thaws: the watchdog does.
    worker.ask(GuestRequest::Freeze { hold_seconds: 2 });
    write(worker);
    worker.run("while [ ! -e /tmp/w ]; do usleep 100000; done");
    worker.run("umount /mnt");
}

fn input(worker: &mut Worker) {
    // Open before anything is typed: what nobody has open keeps nothing.
    worker.run("exec 8</dev/tty1");
    // h, i, Enter in scan code set 1.
    let codes = [0x23, 0x17, 0x1c].into_iter();
    let keys = codes.flat_map(|code| [true, false].map(|down| KeyStroke { code, down })).collect();
    worker.ask(GuestRequest::Keys { keys });
    assert_eq!(worker.run("head -n 1 <&8").trim(), "hi");
    worker.run("e=$(grep -A5 'Vmbus HID' /proc/bus/input/devices | grep -o 'event[0-9]*' | head -n 1)");
    worker.run("exec 9</dev/input/$e");
    worker.ask(GuestRequest::Pointer { x: 12_345, y: 23_456, buttons: 1, wheel: 0 });
    let events = worker.run("head -c 96 <&9 | od -A n -t u2 -w24 -v");
    // An event: 16 bytes of time, then type, code, value.
    let fields =
        |line: &str| line.split_whitespace().skip(8).filter_map(|word| word.parse().ok()).collect::<Vec<u32>>();
    let events: Vec<_> = events.lines().map(fields).collect();
    for wanted in [[3, 0, 12_345], [3, 1, 23_456], [1, 0x110, 1]] {
        assert!(events.iter().any(|event| event[..3] == wanted), "{wanted:?} is not in {events:?}");
    }
}

fn display(worker: &mut Worker) {
    worker.run("while [ ! -e /dev/fb0 ]; do usleep 100000; done");
    worker.run("echo 0 > /sys/class/vtconsole/vtcon1/bind 2>/dev/null; head -c 3145728 /dev/zero | tr '\\\\0' '\\\\252' > /tmp/grey; dd if=/tmp/grey of=/dev/fb0 bs=1M");
    let end = Instant::now() + Duration::from_secs(60);
    let pixels = loop {
        let file = File::from(worker.descriptor(Request::Screenshot));
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let grey = pixels.iter().filter(|value| **value == 0xaa).count();
        if (info.width, info.height) == (1024, 768) && grey > pixels.len() * 9 / 10 {
            break pixels;
        }
        // Drivers draw in the background.
        assert!(Instant::now() < end, "{} x {}, {grey} of {} are grey", info.width, info.height, pixels.len());
    };
    assert_eq!(pixels.len(), 1024 * 768 * 3);
}

fn sockets(worker: &mut Worker) {
    worker.run("socat -d -d VSOCK-LISTEN:5000,fork EXEC:cat 2> /tmp/s &");
    worker.run("while ! grep -q listening /tmp/s; do usleep 100000; done");
    let stream = UnixStream::from(worker.descriptor(Request::Guest(GuestRequest::ConnectSocket { port: 5000 })));
    let total = 64 * MIB as usize;
    let mut writer = stream.try_clone().unwrap();
    let block = |at: usize| -> Vec<u8> { (0..65536).map(|byte| ((at / 65536 * 7 + byte) % 251) as u8).collect() };
    let start = Instant::now();
    let sender = std::thread::spawn(move || {
        for at in (0..total).step_by(65536) {
            writer.write_all(&block(at)).unwrap();
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut reader = stream;
    let mut back = vec![0; 65536];
    for at in (0..total).step_by(65536) {
        reader.read_exact(&mut back).unwrap();
        assert!(back == block(at), "different at {at}");
    }
    assert_eq!(reader.read(&mut back).unwrap(), 0, "the end comes back too");
    sender.join().unwrap();
    eprintln!("hv_sock echo of 64 MiB: {:.1} MiB/s each way", 64.0 / start.elapsed().as_secs_f64());

    worker.ask(GuestRequest::ListenSocket { port: 6000, on: true });
    worker.run("echo hello from the guest | socat - VSOCK-CONNECT:2:6000 &");
    let (_, descriptors) = worker.event("socket", |event| matches!(event, Event::SocketAccepted { port: 6000 }));
    let mut stream = UnixStream::from(descriptors.into_iter().next().unwrap());
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello from the guest\n");
    // Nobody listens there.
    let stream = worker.descriptor(Request::Guest(GuestRequest::ConnectSocket { port: 5001 }));
    assert_eq!(UnixStream::from(stream).read(&mut [0; 1]).unwrap(), 0);
}

fn memory(worker: &mut Worker) {
    let total = |worker: &mut Worker| -> u64 {
        let text = worker.run("grep MemTotal /proc/meminfo");
        text.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).map(|kib: u64| kib * 1024).expect("a number")
    };
    let before = total(worker);
    let set = |worker: &mut Worker, bytes: u64| {
        worker.ask(GuestRequest::SetMemory { bytes: Some(bytes) });
        worker
            .wait_state("memory", |state| state.memory.is_some_and(|memory| memory.assigned.abs_diff(bytes) < 8 * MIB))
    };
    let shrunk = set(worker, 384 * MIB).memory.unwrap();
    assert!(shrunk.ballooned >= 120 * MIB, "{shrunk:?}");
    let small = total(worker);
    assert!(small + 100 * MIB < before, "the guest has {small}, it had {before}");
    let grown = set(worker, 768 * MIB).memory.unwrap();
    assert_eq!((grown.ballooned, grown.hot_added), (0, 256 * MIB), "{grown:?}");
    let large = total(worker);
    assert!(large > before + 200 * MIB, "the guest has {large}, it had {before}");
    worker.ask(GuestRequest::SetMemory { bytes: None });
}

fn switches(worker: &mut Worker) {
    let list = |worker: &mut Worker| worker.run("ls /sys/bus/vmbus/devices");
    let instance = "fd149e91-82e0-4a7d-afa6-2a4166cbd7c0";
    assert!(list(worker).contains(instance));
    worker.ask(GuestRequest::SetService { name: "heartbeat".into(), on: false });
    worker.run(&format!("while [ -e /sys/bus/vmbus/devices/{instance} ]; do usleep 100000; done"));
    let state = worker.state();
    assert!(state.services.contains(&("heartbeat".into(), "off".into())), "{state:?}");
    worker.ask(GuestRequest::SetService { name: "heartbeat".into(), on: true });
    worker.run(&format!("while [ ! -e /sys/bus/vmbus/devices/{instance} ]; do usleep 100000; done"));
    worker.wait_state("heartbeat", |state| state.heartbeat.as_deref() == Some("ok"));
    let unknown = worker.refused(GuestRequest::SetService { name: "coffee".into(), on: true });
    assert!(unknown.message.contains("file-copy"), "{unknown}");
}

/// The guest's clock stands still while it is paused, and is right soon after.
fn time(worker: &mut Worker) {
    let skew = |worker: &mut Worker| {
        let guest: i64 = worker.run("date +%s").trim().parse().unwrap();
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        host - guest
    };
    worker.done(Request::Pause);
    std::thread::sleep(Duration::from_secs(8));
    worker.done(Request::Resume);
    let resumed = Instant::now();
    while skew(worker).abs() > 2 {
        assert!(resumed.elapsed() < Duration::from_secs(60), "the guest is {} s behind", skew(worker));
    }
    eprintln!("the clock was right {:.1} s after the pause", resumed.elapsed().as_secs_f64());
}

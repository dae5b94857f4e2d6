//! The server against `nbdinfo`, `nbdcopy`, `qemu-img` and `qemu-io`; the client against `qemu-nbd` and our own server.
#![allow(clippy::disallowed_methods, reason = "the server runs on a thread of its own")]

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;

use bulkhead_block_io::{IoContext, IoLoop, IoMode, IoRemote, IoSeed, OpenOptions};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{BlockKind, Buffer, Node, RawImage, Request, Stack, read_bytes, write_bytes};
use bulkhead_nbd::{Client, Export, Server};
use tempfile::TempDir;

const SIZE: u64 = 64 << 20;

/// A raw file served on a thread.
struct Served {
    folder: TempDir,
    remote: IoRemote,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(read_only: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk.raw");
        std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("a file");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let seed = IoSeed::new(IoMode::Auto).expect("a loop");
        let remote = seed.remote();
        let thread = std::thread::spawn(move || {
            let io = seed.build().expect("a loop");
            let context = io.context();
            let mut export = Export::new("disk", raw_node(&context, &image));
            export.description = "a test disk".into();
            export.read_only = read_only;
            let server = Server::new(vec![export], context.clone());
            context.spawn(async move { drop(server.listen(listener).await) });
            io.run().expect("it runs");
        });
        Self { folder, remote, thread: Some(thread) }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.remote.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn raw_node(context: &IoContext, path: &Path) -> Rc<dyn Node> {
    let file = OpenOptions::new().open(context, path).expect("the image opens");
    let image = bulkhead_disk::run_now(RawImage::open(Rc::new(file))).expect("any file is a raw image");
    Rc::new(Stack::new(vec![Rc::new(image)]))
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("cannot start {program} (Debian packages: xtask/packages.toml): {error}"))
}

fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pattern(len: usize) -> Vec<u8> {
    let mut random = XorShift::new(7);
    (0..len).map(|_| random.next_u64() as u8).collect()
}

#[test]
fn nbdinfo_sees_what_is_offered() {
    let served = Served::new(false);
    let info = succeed("nbdinfo", &["--list", &served.uri()]);
    for line in ["export=\"disk\"", "a test disk", "base:allocation", "bulkhead:depth", "can_multi_conn: true"] {
        assert!(info.contains(line), "no {line} in\n{info}");
    }
    let info = succeed("nbdinfo", &[&served.uri()]);
    for line in ["structured packets", "export-size: 67108864", "can_trim: true", "can_zero: true", "can_fua: true"] {
        assert!(info.contains(line), "no {line} in\n{info}");
    }
}

#[test]
fn nbdcopy_carries_a_disk_there_and_back_and_finds_the_holes() {
    let served = Served::new(false);
    let source = served.folder.path().join("source");
    let back = served.folder.path().join("back");
    let mut data = vec![0; SIZE as usize];
    data[5 << 20..9 << 20].copy_from_slice(&pattern(4 << 20));
    std::fs::write(&source, &data).expect("a file");
    succeed("nbdcopy", &["--connections=4", "--flush", &source.display().to_string(), &served.uri()]);
    succeed("nbdcopy", &["--connections=4", &served.uri(), &back.display().to_string()]);
    assert!(std::fs::read(&back).expect("a file") == data);
    assert!(std::fs::read(served.image()).expect("a file") == data);
    let map = succeed("nbdinfo", &["--map", &served.uri()]);
    let first: Vec<&str> = map.lines().next().expect("an extent").split_whitespace().collect();
    assert_eq!(first, ["0", "5242880", "3", "hole,zero"], "{map}");
}

#[test]
fn qemu_reads_writes_clears_and_maps() {
    let served = Served::new(false);
    let uri = served.uri();
    let io = |command: &str| succeed("qemu-io", &["-f", "raw", "-c", command, &uri]);
    io("write -P 0x5a 1M 2M");
    io("write -z -u 1536k 512k");
    io("discard 2M 64k");
    io("flush");
    for command in ["read -P 0x5a 1M 512k", "read -P 0 1536k 512k", "read -P 0x5a 2200k 100k"] {
        let output = io(command);
        assert!(!output.contains("verification failed"), "{command}: {output}");
    }
    let image = served.image().display().to_string();
    let comparison = succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &image]);
    assert!(comparison.contains("identical"), "{comparison}");
    let map = succeed("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    assert!(map.contains("\"zero\": true"), "{map}");
}

#[test]
fn a_read_only_export_refuses_writes() {
    let served = Served::new(true);
    let output = run("qemu-io", &["-f", "raw", "-c", "write 0 4k", &served.uri()]);
    assert!(!output.status.success() || String::from_utf8_lossy(&output.stdout).contains("failed"));
    assert!(succeed("nbdinfo", &[&served.uri()]).contains("is_read_only: true"));
}

#[test]
fn an_unknown_export_is_refused_by_name() {
    let served = Served::new(false);
    let uri = served.uri().replace("/disk?", "/other?");
    let output = run("nbdinfo", &[&uri]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("for export: other"), "{errors}");
}

/// Reads, writes, clears and asks, against a server's socket.
async fn exercise(client: Rc<Client>) {
    let data = pattern(3 << 20);
    write_bytes(&*client, 1 << 20, &data).await.expect("a write");
    assert!(read_bytes(&*client, 1 << 20, data.len()).await.expect("a read") == data);
    let clear = Request::WriteZeroes { range: 2 << 20..3 << 20, may_unmap: true, fua: true };
    client.run(clear).await.result.expect("zeroes");
    assert!(read_bytes(&*client, 2 << 20, 1 << 20).await.expect("a read").iter().all(|&byte| byte == 0));
    client.run(Request::Discard { range: 3 << 20..4 << 20 }).await.result.expect("a discard");
    client.run(Request::Flush).await.result.expect("a flush");
    let extents = client.status(0..8 << 20).await.expect("a status");
    assert_eq!(extents.first().map(|extent| (extent.range.clone(), extent.kind)), Some((0..1 << 20, BlockKind::Hole)));
    assert_eq!(extents.last().map(|extent| extent.range.end), Some(8 << 20));
    let beyond = Request::Read { offset: client.facts().size, buffer: Buffer::zeroed(512) };
    assert!(client.run(beyond).await.result.is_err());
    client.disconnect();
}

fn exercise_at(socket: &Path, name: &'static str) {
    let stream = UnixStream::connect(socket).expect("the server is there");
    let io = IoLoop::new(IoMode::Auto).expect("a loop");
    let context = io.context();
    io.run_until(async move {
        let client = Client::connect(stream.into(), name, &context).await.expect("a handshake");
        assert_eq!(client.facts().size, SIZE);
        exercise(client).await;
    })
    .expect("it runs");
}

#[test]
fn the_client_works_with_our_own_server() {
    let served = Served::new(false);
    exercise_at(&served.socket(), "disk");
}

#[test]
fn the_client_works_with_qemu_nbd() {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, socket, pid) = (folder.path().join("disk"), folder.path().join("socket"), folder.path().join("pid"));
    std::fs::File::create(&image).and_then(|file| file.set_len(SIZE)).expect("a file");
    // It returns once the socket is there.
    let words = ["--fork", "-f", "raw", "-x", "disk", "--discard=unmap", "--pid-file"];
    let mut command = Command::new("qemu-nbd");
    command.args(words).arg(&pid).arg("-k").arg(&socket).arg(&image);
    assert!(command.status().expect("qemu-nbd (package qemu-utils)").success());
    exercise_at(&socket, "disk");
}

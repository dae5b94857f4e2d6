//! Messages with descriptors: what arrives, what is refused, and that no descriptor leaks.
#![cfg(not(miri))]

use bulkhead_linux::{EventFd, MAX_DESCRIPTORS, MAX_MESSAGE, MessageError, SeqPacket, SeqPacketListener};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

/// A pipe whose write end was sent away: at its end exactly when every copy of the write end is closed.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

#[test]
fn whole_messages_and_their_descriptors_arrive_in_order() {
    let (a, b) = SeqPacket::pair().unwrap();
    let (mut read, write) = pipe();
    let event = EventFd::new().unwrap();
    a.send(b"first", &[]).unwrap();
    a.send(&vec![7; MAX_MESSAGE], &[write.as_fd(), event.as_fd()]).unwrap();
    drop((a, write));
    let first = b.receive().unwrap().unwrap();
    assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (&b"first"[..], 0));
    let second = b.receive().unwrap().unwrap();
    assert_eq!(second.bytes, vec![7; MAX_MESSAGE]);
    let [write, passed] = second.descriptors.try_into().unwrap();
    for fd in [&write, &passed] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    File::from(write).write_all(b"through the pipe").unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the pipe");
    EventFd::from(passed).signal().unwrap();
    assert_eq!(event.take().unwrap(), 1);
    assert!(b.receive().unwrap().is_none(), "the other end is closed");
}

#[test]
fn as_many_descriptors_as_allowed_and_no_more() {
    let (a, b) = SeqPacket::pair().unwrap();
    let (_read, write) = pipe();
    let many = vec![write.as_fd(); MAX_DESCRIPTORS + 1];
    a.send(b"32", &many[1..]).unwrap();
    assert_eq!(b.receive().unwrap().unwrap().descriptors.len(), MAX_DESCRIPTORS);
    assert!(matches!(a.send(b"33", &many), Err(MessageError::TooManyDescriptors { count: 33 })));
}

#[test]
fn what_is_too_long_is_not_sent() {
    let (a, _b) = SeqPacket::pair().unwrap();
    assert!(matches!(a.send(&vec![0; MAX_MESSAGE + 1], &[]), Err(MessageError::TooLong { len: 65_537 })));
    assert!(matches!(a.send(&[], &[]), Err(MessageError::Empty)));
}

/// A peer that does not keep to the limits: its descriptors are closed, its message is refused, the next one arrives.
#[test]
fn too_many_descriptors_from_a_hostile_peer_are_all_closed() {
    let (a, b) = SeqPacket::pair().unwrap();
    let (mut read, write) = pipe();
    let many = vec![write.as_fd(); MAX_DESCRIPTORS + 40];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS + 40))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
    rustix::net::sendmsg(&a, &[IoSlice::new(b"grab all")], &mut control, SendFlags::empty()).unwrap();
    a.send(b"next", &[]).unwrap();
    assert!(matches!(b.receive(), Err(MessageError::DescriptorsLost)));
    assert_eq!(b.receive().unwrap().unwrap().bytes, b"next");
    drop(write);
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "no copy of the write end is left in this process");
}

#[test]
fn a_message_over_the_limit_from_a_hostile_peer_is_refused_whole() {
    let (a, b) = SeqPacket::pair().unwrap();
    let (mut read, write) = pipe();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [write.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = vec![1; MAX_MESSAGE + 5];
    rustix::net::sendmsg(&a, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    assert!(matches!(b.receive(), Err(MessageError::TooLong { len: 65_541 })));
    drop(write);
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_closed_peer_is_an_error_and_not_a_signal() {
    let (a, b) = SeqPacket::pair().unwrap();
    drop(b);
    let Err(MessageError::Socket(error)) = a.send(b"anybody?", &[]) else { panic!("sent to nobody") };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn nonblocking_ends_do_not_wait() {
    let (a, b) = SeqPacket::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    assert!(a.receive().unwrap_err().is_would_block());
    let full = loop {
        if let Err(error) = a.send(&[0; 32_768], &[]) {
            break error;
        }
    };
    assert!(full.is_would_block());
    b.receive().unwrap().unwrap();
    a.send(b"room again", &[]).unwrap();
}

#[test]
fn listeners_answer_at_paths_of_any_length_and_know_their_peers() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(90)).join("e".repeat(90));
    std::fs::create_dir_all(&deep).unwrap();
    for path in [directory.path().join("short"), deep.join("socket")] {
        let listener = SeqPacketListener::bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let client = SeqPacket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        client.send(b"hello", &[]).unwrap();
        assert_eq!(server.receive().unwrap().unwrap().bytes, b"hello");
        let peer = server.peer().unwrap();
        assert_eq!(peer.pid, Some(std::process::id()));
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_left_over_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = SeqPacketListener::bind(&path, 0o600).unwrap();
    assert_eq!(SeqPacketListener::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    assert_eq!(SeqPacket::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let _second = SeqPacketListener::bind(&path, 0o600).unwrap();
    SeqPacket::connect(&path).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(SeqPacketListener::bind(&file, 0o600).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn event_fds_count_and_never_block() {
    let event = EventFd::new().unwrap();
    assert_eq!(event.take().unwrap(), 0);
    let other = event.try_clone().unwrap();
    (0..3).for_each(|_| other.signal().unwrap());
    assert_eq!(event.wait().unwrap(), 3);
    rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    event.signal().unwrap(); // full: still signalled
    assert_eq!(event.take().unwrap(), u64::MAX - 1);
    let (read, _write) = pipe();
    assert!(EventFd::from(OwnedFd::from(read)).signal().is_err(), "not an eventfd");
    assert!(event.as_fd().as_raw_fd() >= 0);
}

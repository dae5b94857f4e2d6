//! Guests with a real TCP/IP stack (smoltcp) reach real sockets of the host through the NAT, and the gateway serves them.

mod guest;

use bulkhead_nat_protocol::{BootConfig, Forward, NatAnswer, NatConfig, NatRequest, Protocol, Reservation};
use bulkhead_port::AttachOptions;
use guest::{GATEWAY, Guest, start};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};

fn config() -> NatConfig {
    NatConfig { host_access: true, ..NatConfig::default() }
}

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[allow(clippy::disallowed_methods, reason = "the other end of a connection lives in a thread")]
fn in_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::spawn(act)
}

/// A server of the host that sends back what it gets, until the end.
fn echo_server() -> (u16, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = in_thread(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
        loop {
            let len = stream.read(&mut buffer).unwrap();
            if len == 0 {
                return total;
            }
            stream.write_all(&buffer[..len]).unwrap();
            total += len;
        }
    });
    (port, thread)
}

/// Sends `data` to an echo server and checks what comes back; then both sides close.
fn echoes(guest: &mut Guest, data: &[u8]) {
    let (port, server) = echo_server();
    let handle = guest.tcp();
    guest.connect(handle, (GATEWAY, port), 49_152);
    let (mut sent, mut received) = (0, Vec::new());
    guest.until("the echo", |sockets, _| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        (received.len() == data.len()).then_some(())
    });
    assert!(received == data, "what came back differs");
    guest.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
    guest.until("the end", |sockets, _| {
        let state = sockets.get_mut::<tcp::Socket<'_>>(handle).state();
        matches!(state, tcp::State::TimeWait | tcp::State::Closed).then_some(())
    });
    assert_eq!(server.join().unwrap(), data.len());
}

#[test]
fn a_guest_gets_an_address_by_dhcp_and_the_same_one_again() {
    let (mut nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::new(port, 1500, true);
    let (address, lease) = guest.dhcp();
    assert!((10..255).contains(&address.address().octets()[3]), "{address}");
    assert_eq!((lease.router, lease.dns_servers.as_slice()), (Some(GATEWAY), &[GATEWAY][..]));
    let NatAnswer::Leases(leases) = nat.ask(NatRequest::Leases, &[]).unwrap() else { panic!("no leases") };
    assert_eq!((leases[0].address, leases[0].mac.as_str()), (address.address(), "00-15-5D-01-02-03"));
    drop((guest, nat));

    let (_nat, port) = start(config(), AttachOptions::default(), None);
    assert_eq!(Guest::new(port, 1500, true).dhcp().0, address, "after a restart of the server");

    let reservation = Reservation {
        mac: "00-15-5D-01-02-03".into(),
        address: Some(Ipv4Addr::new(192, 168, 137, 7)),
        name: Some("web".into()),
        boot_file: None,
    };
    let reserved = NatConfig { reservations: vec![reservation], ..config() };
    let (_nat, port) = start(reserved, AttachOptions::default(), None);
    assert_eq!(Guest::new(port, 1500, true).dhcp().0.address(), Ipv4Addr::new(192, 168, 137, 7));
}

#[test]
fn tcp_reaches_the_host_and_comes_back_whole() {
    let (_nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    echoes(&mut guest, &pattern(6 << 20));
}

#[test]
fn large_frames_pass_whole() {
    let (_nat, port) = start(config(), AttachOptions::ALL, None);
    let mut guest = Guest::with_address(port, 65_000, false);
    echoes(&mut guest, &pattern(20 << 20));
}

#[test]
fn lost_frames_are_sent_again() {
    let (_nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    guest.nic.lose_one_of = Some(50);
    echoes(&mut guest, &pattern(300 << 10));
}

#[test]
fn a_refused_connection_is_refused() {
    let (_nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let handle = guest.tcp();
    guest.connect(handle, (GATEWAY, free), 49_152);
    guest.until("the refusal", |sockets, _| {
        (sockets.get_mut::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed).then_some(())
    });
}

#[test]
fn without_leave_the_gateway_leads_nowhere() {
    let (_nat, port) = start(NatConfig::default(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    let (port, _server) = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    };
    for to in [(GATEWAY, port), (Ipv4Addr::LOCALHOST, port)] {
        let handle = guest.tcp();
        guest.connect(handle, to, 49_152 + u16::from(to.0 == GATEWAY));
        if to.0 == GATEWAY {
            guest.until("the refusal", |sockets, _| {
                (sockets.get_mut::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed).then_some(())
            });
        }
    }
}

#[test]
fn a_slow_reader_slows_only_its_sender() {
    let (_nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.tcp();
    guest.connect(handle, (GATEWAY, listener.local_addr().unwrap().port()), 49_152);
    let data = pattern(64 << 20);
    let mut sent = 0;
    let mut push = |socket: &mut tcp::Socket<'_>| {
        if socket.can_send() && sent < data.len() {
            sent += socket.send_slice(&data[sent..]).unwrap();
        }
        sent
    };
    guest.until("the connection", |sockets, _| sockets.get_mut::<tcp::Socket<'_>>(handle).may_send().then_some(()));
    let (mut stream, _) = listener.accept().unwrap();
    // Nobody reads: it comes to a stop, and others go on.
    let (mut last, mut same) = (0, 0);
    guest.until("the stop", |sockets, _| {
        let now = push(sockets.get_mut::<tcp::Socket<'_>>(handle));
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        (same > 20).then_some(())
    });
    assert!(last < data.len(), "the buffers of a host do not hold 64 MiB");
    echoes_beside(&mut guest);
    // Now it is read.
    let expected = data.clone();
    let reader = in_thread(move || {
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).unwrap();
        assert!(received == expected, "what arrived differs");
    });
    guest.until("the rest", |sockets, _| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        let all = push(socket) == data.len();
        (all && socket.send_queue() == 0).then_some(())
    });
    reader.join().unwrap();
}

fn echoes_beside(guest: &mut Guest) {
    let (port, _server) = echo_server();
    let handle = guest.tcp();
    guest.connect(handle, (GATEWAY, port), 50_000);
    let mut sent = false;
    guest.until("an echo beside", |sockets, _| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_send() && !sent {
            socket.send_slice(b"hello").unwrap();
            sent = true;
        }
        (socket.recv_queue() == 5).then_some(())
    });
    guest.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
}

#[test]
fn forwards_reach_the_guest() {
    let free = |port: u16| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let tcp_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let udp_port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let guest_at = |port| SocketAddrV4::new(Ipv4Addr::new(192, 168, 137, 50), port);
    let forward = |protocol, listen, port| Forward { protocol, listen: free(listen), guest: guest_at(port) };
    let forwards = vec![forward(Protocol::Tcp, tcp_port, 22), forward(Protocol::Udp, udp_port, 53)];
    let (mut nat, port) = start(NatConfig { forwards, ..config() }, AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);

    let handle = guest.tcp();
    guest.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(22).unwrap();
    let client = in_thread(move || {
        let mut stream = TcpStream::connect(free(tcp_port)).unwrap();
        let mut greeting = [0; 7];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(b"thanks").unwrap();
        greeting
    });
    let mut greeted = false;
    guest.until("the client", |sockets, _| {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
        if socket.can_send() && !greeted {
            socket.send_slice(b"welcome").unwrap();
            greeted = true;
        }
        (socket.recv_queue() == 6).then_some(())
    });
    assert_eq!(client.join().unwrap(), *b"welcome");

    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let handle = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).bind(53).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"question", free(udp_port)).unwrap();
    guest.until("the question", |sockets, _| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(handle);
        let (question, from) = socket.recv().ok()?;
        assert_eq!(question, b"question");
        socket.send_slice(b"answer", from).unwrap();
        Some(())
    });
    let mut answer = [0; 16];
    let (len, from) = client.recv_from(&mut answer).unwrap();
    assert_eq!((&answer[..len], from), (&b"answer"[..], free(udp_port).into()));

    nat.ask(NatRequest::RemoveForward(forward(Protocol::Tcp, tcp_port, 22)), &[]).unwrap();
    assert!(TcpStream::connect(free(tcp_port)).is_err());
}

#[test]
fn udp_and_pings_come_back() {
    let (_nat, port) = start(config(), AttachOptions::default(), None);
    let mut guest = Guest::with_address(port, 1500, true);
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = (IpAddress::from(GATEWAY), server.local_addr().unwrap().port());
    in_thread(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer[..len], from).unwrap();
        }
    });
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let handle = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).bind(4000).unwrap();
    let data = pattern(1400);
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(&data, to).unwrap();
    guest.until("the datagram", |sockets, _| {
        let (answer, _) = sockets.get_mut::<udp::Socket<'_>>(handle).recv().ok()?;
        assert_eq!(answer, data);
        Some(())
    });

    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
    let handle = guest.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
    socket.bind(icmp::Endpoint::Ident(77)).unwrap();
    let echo = Icmpv4Repr::EchoRequest { ident: 77, seq_no: 1, data: b"are you there?" };
    let bytes = socket.send(echo.buffer_len(), IpAddress::from(GATEWAY)).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &Default::default());
    guest.until("the echo", |sockets, _| {
        let (bytes, _) = sockets.get_mut::<icmp::Socket<'_>>(handle).recv().ok()?;
        let packet = Icmpv4Packet::new_checked(bytes).unwrap();
        let reply = Icmpv4Repr::parse(&packet, &Default::default()).unwrap();
        assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 77, seq_no: 1, data: b"are you there?" });
        Some(())
    });
}

#[test]
fn boot_files_come_by_http() {
    let folder = tempfile::tempdir().unwrap();
    let file = pattern(3_000_000);
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/vmlinuz"), &file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("outside")).unwrap();
    let boot = BootConfig { ipxe: Some("boot.ipxe".into()), ..BootConfig::default() };
    let (_nat, port) = start(NatConfig { boot, ..config() }, AttachOptions::default(), Some(folder.path()));
    let mut guest = Guest::with_address(port, 1500, true);
    let get = |guest: &mut Guest, requests: &str, from: u16| {
        let handle = guest.tcp();
        guest.connect(handle, (GATEWAY, 80), from);
        let (mut sent, mut received) = (false, Vec::new());
        guest.until("the answer", |sockets, _| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.can_send() && !sent {
                socket.send_slice(requests.as_bytes()).unwrap();
                sent = true;
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            (sent && !socket.may_recv()).then_some(())
        });
        received
    };
    // Two on one connection: the whole, then a part.
    let both = "GET /sub/vmlinuz HTTP/1.1\r\nHost: x\r\n\r\n\
                GET /sub/vml%69nuz HTTP/1.1\r\nRange: bytes=100-199\r\nConnection: close\r\n\r\n";
    let answer = get(&mut guest, both, 49_152);
    let head_end = answer.windows(4).position(|at| at == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(answer[head_end..head_end + file.len()] == file, "the file differs");
    assert!(answer[head_end + file.len()..].starts_with(b"HTTP/1.1 206 "));
    assert_eq!(answer[answer.len() - 100..], file[100..200]);
    for (number, path) in (49_153..).zip(["/outside", "/../etc/passwd", "/sub", "/none"]) {
        let answer = get(&mut guest, &format!("GET {path} HTTP/1.0\r\n\r\n"), number);
        assert!(answer.starts_with(b"HTTP/1.1 404"), "{path}: {}", String::from_utf8_lossy(&answer));
    }
}

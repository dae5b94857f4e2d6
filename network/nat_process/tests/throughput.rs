//! Figures, not judgements: how much TCP passes the NAT each way when the guest takes and sends frames of 60 KB, as a driver with
//! large-send offload does. Run with `cargo test --release -p bulkhead_nat_process --test throughput -- --ignored --nocapture`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real time of real threads")]

mod guest;

use bulkhead_nat_protocol::NatConfig;
use bulkhead_port::AttachOptions;
use guest::{GATEWAY, Guest, start};
use smoltcp::socket::tcp;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Instant;

const TOTAL: usize = 4 << 30;

#[test]
#[ignore = "prints figures"]
fn tcp_each_way() {
    for to_guest in [true, false] {
        let (_nat, port) = start(NatConfig { host_access: true, ..NatConfig::default() }, AttachOptions::ALL, None);
        let mut guest = Guest::with_address(port, 65_000, false);
        guest.nic.large_segments = true;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = guest.tcp();
        guest.connect(handle, (GATEWAY, listener.local_addr().unwrap().port()), 49_152);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 256 << 10];
            let mut moved = 0;
            while moved < TOTAL {
                moved += if to_guest { stream.write(&buffer).unwrap() } else { stream.read(&mut buffer).unwrap() };
            }
        });
        let begun = Instant::now();
        let block = vec![0; 256 << 10];
        let mut moved = 0;
        guest.until("the end", |sockets, _| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            while to_guest && socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), moved += bytes.len())).unwrap();
            }
            while !to_guest && moved < TOTAL && socket.can_send() {
                moved += socket.send_slice(&block[..block.len().min(TOTAL - moved)]).unwrap();
            }
            (moved >= TOTAL && socket.send_queue() == 0).then_some(())
        });
        server.join().unwrap();
        let gigabits = TOTAL as f64 * 8.0 / begun.elapsed().as_secs_f64() / 1e9;
        println!("{} the guest: {gigabits:.1} Gbit/s", if to_guest { "to" } else { "from" });
    }
}

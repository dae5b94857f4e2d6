//! The fuzz target: frames of hostile guests, answers of hostile servers, time, and a host whose sockets do what they like.

use crate::host::{BootFile, Datagrams, Host, Io, Link, SocketId, Stream};
use crate::wire::{Outgoing, Route};
use crate::{Forwarded, Nat};
use bulkhead_nat_protocol::{BootConfig, NatConfig};
use bulkhead_packets::{FrameMeta, MacAddress};
use bulkhead_reactor::Time;
use std::hash::RandomState;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 137, 20);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 137, 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 53);
const MAC: MacAddress = MacAddress([0, 0x15, 0x5d, 0, 0, 1]);

/// A host that answers by the bytes of the input, and remembers what a question to a server was.
struct Moody {
    moods: Vec<u8>,
    at: usize,
    ids: Vec<SocketId>,
}

impl Moody {
    fn mood(&mut self) -> u8 {
        self.at += 1;
        self.moods.get(self.at % self.moods.len().max(1)).copied().unwrap_or(0)
    }
}

struct MoodyStream(Vec<u8>, usize);

impl MoodyStream {
    fn mood(&mut self) -> usize {
        self.1 += 1;
        self.0.get(self.1 % self.0.len().max(1)).copied().unwrap_or(0).into()
    }
}

impl Stream for MoodyStream {
    fn connected(&mut self) -> io::Result<()> {
        if self.mood().is_multiple_of(8) { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(()) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.mood() {
            0..100 => Ok(bytes.len()),
            100..120 => Ok(bytes.len() / 2),
            120..125 => Err(ErrorKind::BrokenPipe.into()),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self.mood() {
            _ if skip > 100_000 => Err(ErrorKind::WouldBlock.into()),
            0..80 => Ok(buffer.len()),
            80..90 => Ok(0),
            90..100 => Err(ErrorKind::ConnectionReset.into()),
            100..120 => Ok(buffer.len().min(10)),
            _ => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn consume(&mut self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) {}
    fn abort(&mut self) {}
}

struct MoodyDatagrams(Vec<u8>, bool);

impl Datagrams for MoodyDatagrams {
    fn send(&mut self, _: SocketAddrV4, payload: &[u8]) -> io::Result<()> {
        // The identifier of a question, so that the answer gets further.
        (self.0, self.1) = ([payload.get(..2).unwrap_or_default(), &self.0].concat(), true);
        self.0.truncate(2000);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4)> {
        if !std::mem::take(&mut self.1) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = self.0.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.0[..len]);
        Ok((len, SERVER))
    }
}

struct File;

impl BootFile for File {
    fn len(&self) -> u64 {
        70_000
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(buffer.len().min(70_000usize.saturating_sub(offset as usize)))
    }
}

impl Host for Moody {
    type Stream = MoodyStream;
    type Datagrams = MoodyDatagrams;

    fn connect(&mut self, _: SocketAddrV4, id: SocketId) -> io::Result<MoodyStream> {
        self.ids.push(id);
        let at = self.mood().into();
        Ok(MoodyStream(self.moods.clone(), at))
    }

    fn udp(&mut self, id: SocketId) -> io::Result<MoodyDatagrams> {
        self.ids.push(id);
        Ok(MoodyDatagrams(self.moods.clone(), false))
    }

    fn ping(&mut self, id: SocketId) -> io::Result<MoodyDatagrams> {
        self.udp(id)
    }

    fn boot_file(&mut self, name: &str) -> io::Result<Box<dyn BootFile>> {
        if name.len() > 1 { Ok(Box::new(File)) } else { Err(ErrorKind::NotFound.into()) }
    }
}

/// A link that checks what goes over it.
struct Checked {
    full: bool,
}

impl Link for Checked {
    fn room(&mut self, _: usize) -> bool {
        self.full = !self.full;
        self.full
    }

    fn send(&mut self, meta: &FrameMeta, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum();
        meta.check(len).expect("a frame that no port carries");
    }
}

/// A random network.
pub fn fuzz(data: &[u8]) {
    let config = NatConfig {
        dns: vec![SERVER],
        host_access: data.len().is_multiple_of(2),
        boot: BootConfig { bios: Some("pxe".into()), uefi: Some("efi".into()), ipxe: Some("script".into()) },
        ..NatConfig::default()
    };
    let Ok(mut nat) = Nat::new(&config, MAC, data.len().is_multiple_of(3), RandomState::new()) else { return };
    let mut host = Moody { moods: data.to_vec(), at: 0, ids: Vec::new() };
    let mut link = Checked { full: false };
    let mut now = Time::ZERO;
    let mut rest = data;
    while let [kind, len, tail @ ..] = rest {
        let (bytes, later) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = later;
        let mut io = Io { now, host: &mut host, link: &mut link };
        let frames = frames_of(*kind, bytes);
        for frame in frames {
            nat.frame(&mut io, &frame, &FrameMeta::default());
        }
        match kind % 16 {
            12 => {
                for id in io.host.ids.clone() {
                    nat.stream_ready(&mut io, id);
                    nat.datagrams_ready(&mut io, id);
                }
            }
            13 => nat.link_ready(&mut io),
            14 => now += Duration::from_millis(u64::from(*len) << (kind >> 4)),
            15 => {
                let client = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1000 + u16::from(*len));
                let forwarded = Forwarded { client, guest: GUEST, port: (*kind).into() };
                let _ = nat.accept(&mut io, forwarded, |_| Ok(MoodyStream(bytes.to_vec(), 0)));
            }
            _ => {}
        }
        let mut io = Io { now, host: &mut host, link: &mut link };
        nat.tick(&mut io);
    }
}

/// What a guest sends: whole frames of random bytes, or such bytes where a server looks at them.
fn frames_of(kind: u8, bytes: &[u8]) -> Vec<Vec<u8>> {
    let route = Route { to_mac: MAC, from_mac: MacAddress([0, 0x15, 0x5d, 1, 2, 3]), from: GUEST, to: GATEWAY };
    let datagram = |ports: (u16, u16)| route.udp(ports, bytes, 1, 1500);
    match kind % 16 {
        0 => vec![bytes.to_vec()],
        1 => vec![[&MAC.0[..], &[0, 0x15, 0x5d, 1, 2, 3, 8, if kind & 16 == 0 { 0 } else { 6 }], bytes].concat()],
        2 => {
            // A message with its fixed part as it must be.
            let mut message = vec![0; 240];
            message[..3].copy_from_slice(&[1, 1, 6]);
            message[28..34].copy_from_slice(&[0, 0x15, 0x5d, 1, 2, 3]);
            message[236..].copy_from_slice(&[99, 130, 83, 99]);
            message.extend(bytes);
            route.udp((68, 67), &message, 1, 1500)
        }
        3 => datagram((68, 67)),
        4 => datagram((5000, 53)),
        5 => datagram((5001, 69)),
        6 => datagram((5001, 40_000 + u16::from(kind >> 4))),
        7 => datagram((5002, 7)),
        8..12 => {
            let ports = [80, 53, 7];
            let far = if kind & 32 == 0 { route } else { Route { to: *SERVER.ip(), ..route } };
            let number = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
            let segment = Outgoing {
                from_port: 6000 + u16::from(kind >> 6),
                to_port: ports[usize::from(kind % 3)],
                sequence: number(0) | number(1) << 8,
                acknowledged: number(2) | number(3) << 28,
                flags: if kind % 16 == 8 { 2 } else { number(4) as u8 | 16 },
                window: number(5) as u16 * 256,
            };
            let (mut frame, _) = far.tcp(&segment, &[], bytes, None);
            frame.extend(bytes);
            vec![frame]
        }
        _ => Vec::new(),
    }
}

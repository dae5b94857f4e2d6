//! Measures the switch process: NICs are processes of their own, as VMs are. `cargo xtask bench network` runs it.
//!
//! Needs `bulkhead-switch` beside it, in the folder above. Prints one row per measurement, with its bar.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement needs the clock and processes")]

use anyhow::{Context, Result, bail};
use bulkhead_linux::SeqPacket;
use bulkhead_packets::{Checksum, FrameMeta, MacAddress, SegmentKind, Segmentation};
use bulkhead_port::{AttachOptions, Connector, Port, PortRing, RingSize};
use bulkhead_switch_protocol::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SECONDS: f64 = 2.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => measure(),
        ["send", socket, ticket, from, to, len] => send(socket, ticket, from.parse()?, to.parse()?, len.parse()?),
        ["receive", socket, ticket] => receive(socket, ticket),
        ["echo", socket, ticket] => echo(socket, ticket),
        _ => bail!("this program starts itself; give no arguments"),
    }
}

fn attach(socket: &str, ticket: &str) -> Result<PortRing> {
    let port = Port::attach(&Connector::at_path(socket, ticket), RingSize::default(), AttachOptions::ALL)?;
    // The handshake's socket stays open as long as the process.
    std::mem::forget(port.control);
    Ok(port.ring)
}

fn wait(ring: &PortRing) -> Result<()> {
    poll(&mut [PollFd::new(&ring.wake, PollFlags::IN)], None)?;
    Ok(ring.wake.clear()?)
}

/// Sends frames of `len` bytes as fast as they are taken; above 9014 bytes they are TCP frames to be cut.
fn send(socket: &str, ticket: &str, from: MacAddress, to: MacAddress, len: usize) -> Result<()> {
    let mut ring = attach(socket, ticket)?;
    let mut frame = [&to.0[..], &from.0, &[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]].concat();
    frame.resize(len, 0);
    let mut meta = FrameMeta::default();
    if len > 9014 {
        meta.checksum = Checksum::Partial { start: 34, offset: 16 };
        meta.segmentation = Some(Segmentation { kind: SegmentKind::TcpIpv4, size: 1448, header_len: 66 });
    }
    loop {
        for _ in 0..64 {
            if !ring.tx.send(&meta, &[&frame])? {
                if ring.tx.wait_for_room()? {
                    wait(&ring)?;
                }
                break;
            }
        }
        ring.tx.publish()?;
    }
}

/// Reads everything, into a buffer that is used again.
fn receive(socket: &str, ticket: &str) -> Result<()> {
    let mut ring = attach(socket, ticket)?;
    let mut buffer = vec![0; bulkhead_packets::MAX_FRAME];
    loop {
        if let Some(frame) = ring.rx.peek()? {
            let len = frame.len();
            frame.read(0, &mut buffer[..len])?;
            ring.rx.advance();
            ring.rx.release_some()?;
        } else if ring.rx.sleep()? {
            wait(&ring)?;
        }
    }
}

fn echo(socket: &str, ticket: &str) -> Result<()> {
    echo_on(attach(socket, ticket)?)
}

/// Sends every frame back to where it came from.
fn echo_on(mut ring: PortRing) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        if let Some(frame) = ring.rx.peek()? {
            frame.read_all(&mut bytes)?;
            ring.rx.advance();
            let (to, rest) = bytes.split_at_mut(6);
            to.swap_with_slice(&mut rest[..6]);
            ring.tx.send(&FrameMeta::default(), &[&bytes])?;
            ring.tx.publish()?;
        } else if ring.rx.sleep()? {
            wait(&ring)?;
        }
    }
}

#[derive(Clone, Copy)]
struct Rate {
    mpps: f64,
    gbits: f64,
    nanos: f64,
}

struct Switch {
    root: tempfile::TempDir,
    process: Child,
    client: Channel<ToSwitch, FromSwitch>,
    clients: Vec<Child>,
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in self.clients.iter_mut().chain([&mut self.process]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("this program is in no folder")?;
    Ok(folder.join(name))
}

impl Switch {
    fn start() -> Result<Switch> {
        let root = tempfile::tempdir()?;
        let process = Command::new(beside("bulkhead-switch")?).arg("--root").arg(root.path()).spawn()?;
        let start = Instant::now();
        let socket = loop {
            match SeqPacket::connect(paths::control_socket(root.path())) {
                Ok(socket) => break socket,
                Err(error) if start.elapsed() > Duration::from_secs(10) => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut switch = Switch { root, process, client: Channel::new(socket), clients: Vec::new() };
        let definition = SwitchDefinition::new("bench", SwitchKind::Private);
        switch.ask(Request::CreateSwitch { definition: Box::new(definition), force: false })?;
        Ok(switch)
    }

    fn ask(&mut self, request: Request) -> Result<Answer> {
        self.client.send(&ToSwitch { id: 1, request }, &[])?;
        Ok(self.client.receive()?.context("the switch is gone")?.message.result?)
    }

    fn port(&mut self, settings: PortSettings) -> Result<(String, String)> {
        match self.ask(Request::CreatePort { switch: "bench".into(), settings: Box::new(settings) })? {
            Answer::Port { ticket, mac, .. } => Ok((ticket, mac)),
            other => bail!("{other:?}"),
        }
    }

    fn named(&mut self, name: &str) -> Result<(String, String)> {
        self.port(PortSettings { name: name.into(), ..PortSettings::default() })
    }

    fn socket(&self) -> String {
        paths::ports_socket(self.root.path()).display().to_string()
    }

    fn client(&mut self, arguments: &[&str]) -> Result<()> {
        let (role, rest) = arguments.split_first().context("no role")?;
        let child = Command::new(std::env::current_exe()?).arg(role).arg(self.socket()).args(rest).spawn()?;
        self.clients.push(child);
        Ok(())
    }

    /// Frames and bytes that the port `name` has received.
    fn received(&mut self, name: &str) -> Result<Traffic> {
        let mut after = None;
        loop {
            let Answer::Ports { ports, more } = self.ask(Request::Ports { switch: None, after })? else {
                bail!("no ports")
            };
            if let Some(port) = ports.iter().find(|port| port.settings.name == name) {
                return Ok(port.received);
            }
            after = ports.last().and_then(|port| port.id);
            if !more {
                bail!("no port {name}");
            }
        }
    }

    /// Seconds of processor that the switch process has used.
    fn processor(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: f64 = fields.get(11..13).context("no times")?.iter().flat_map(|field| field.parse::<f64>()).sum();
        // A tick is a hundredth of a second.
        Ok(ticks / 100.0)
    }

    /// Millions of frames and gigabits per second that reach the port `b`, over some time, and the nanoseconds of processor that the
    /// switch uses for a frame, which say more than rates when the machine is busy with other things.
    fn rate(&mut self) -> Result<Rate> {
        std::thread::sleep(Duration::from_millis(300));
        let (before, used, start) = (self.received("b")?, self.processor()?, Instant::now());
        std::thread::sleep(Duration::from_secs_f64(SECONDS));
        let (after, used, seconds) = (self.received("b")?, self.processor()? - used, start.elapsed().as_secs_f64());
        let frames = (after.frames - before.frames) as f64;
        let bytes = (after.bytes - before.bytes) as f64;
        Ok(Rate {
            mpps: frames / seconds / 1e6,
            gbits: bytes * 8.0 / seconds / 1e9,
            nanos: used * 1e9 / frames.max(1.0),
        })
    }

    fn flood(&mut self, len: usize) -> Result<Rate> {
        let (a, b) = (self.named("a")?, self.named("b")?);
        self.client(&["receive", &b.0])?;
        self.client(&["send", &a.0, &a.1, &b.1, &len.to_string()])?;
        self.rate()
    }
}

fn flood(len: usize) -> Result<Rate> {
    let mut rates = Vec::new();
    for _ in 0..3 {
        rates.push(Switch::start()?.flood(len)?);
    }
    rates.sort_by(|one, other| one.mpps.total_cmp(&other.mpps));
    Ok(rates[1])
}

/// A switch with a thousand ports and ten thousand learned addresses.
fn crowded(len: usize) -> Result<Rate> {
    let mut switch = Switch::start()?;
    for index in 0..1000u32 {
        let [_, x, y, z] = index.to_be_bytes();
        let mac = Some(MacAddress([0x02, 1, 1, x, y, z]).to_string());
        switch.port(PortSettings { name: format!("idle {index}"), mac, ..PortSettings::default() })?;
    }
    for teacher in 0..10u8 {
        let name = format!("teacher {teacher}");
        let mac = Some(MacAddress([0x02, 2, 2, 0, 0, teacher]).to_string());
        let port = switch.port(PortSettings { name, mac, mac_spoofing: true, ..PortSettings::default() })?;
        let mut ring = attach(&switch.socket(), &port.0)?;
        for index in 0..1000u16 {
            let [x, y] = index.to_be_bytes();
            let frame = [&[0x02, 9, 9, 9, 9, 9][..], &[0x02, 3, teacher, 0, x, y], &[0; 48]].concat();
            while !ring.tx.send(&FrameMeta::default(), &[&frame])? {}
        }
        ring.tx.publish()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    switch.flood(len)
}

/// Median time for a frame there and back, in microseconds, a millisecond apart.
fn ping(ring: &mut PortRing, from: MacAddress, to: MacAddress) -> Result<f64> {
    let frame = [&to.0[..], &from.0, &[0x88, 0xB5], &[0; 46]].concat();
    let mut times = Vec::new();
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(1));
        let start = Instant::now();
        ring.tx.send(&FrameMeta::default(), &[&frame])?;
        ring.tx.publish()?;
        while ring.rx.peek()?.is_none() {
            if ring.rx.sleep()? {
                poll(&mut [PollFd::new(&ring.wake, PollFlags::IN)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
                ring.wake.clear()?;
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e6);
        ring.rx.advance();
        ring.rx.release()?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Microseconds that the switch adds to a frame's way, once.
fn latency() -> Result<(f64, f64)> {
    let (mut here, there) = bulkhead_port::pair(RingSize::default())?;
    std::thread::spawn(move || echo_on(there));
    let direct = ping(&mut here, MacAddress::default(), MacAddress::default())?;
    let mut switch = Switch::start()?;
    let (a, b) = (switch.named("a")?, switch.named("b")?);
    switch.client(&["echo", &b.0])?;
    let mut ring = attach(&switch.socket(), &a.0)?;
    std::thread::sleep(Duration::from_millis(200));
    let through = ping(&mut ring, a.1.parse()?, b.1.parse()?)?;
    Ok(((through - direct) / 2.0, direct / 2.0))
}

/// MiB resident and percent of a processor of a switch process with a hundred idle ports.
fn idle() -> Result<(f64, f64)> {
    let mut switch = Switch::start()?;
    let mut rings = Vec::new();
    for index in 0..100 {
        let port = switch.named(&format!("idle {index}"))?;
        rings.push(attach(&switch.socket(), &port.0)?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let id = switch.process.id();
    let (before, start) = (switch.processor()?, Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let percent = (switch.processor()? - before) / start.elapsed().as_secs_f64() * 100.0;
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok((kib / 1024.0, percent))
}

fn row(name: &str, value: f64, unit: &str, at_least: bool, bar: f64) {
    let met = if at_least { value >= bar } else { value <= bar };
    let (sign, verdict) = (if at_least { "≥" } else { "≤" }, if met { "" } else { "  MISSED" });
    println!("{name:<52} {value:>10.2} {unit:<7} {sign} {bar}{verdict}");
}

fn detail(rate: &Rate) {
    println!("  ({:.0} ns of processor per frame in the switch, {:.2} Mpps)", rate.nanos, rate.mpps);
}

fn measure() -> Result<()> {
    let small = flood(64)?;
    row("port to port, 64 B", small.mpps, "Mpps", true, 5.0);
    detail(&small);
    let full = flood(1500)?;
    row("port to port, 1500 B", full.gbits, "Gbit/s", true, 40.0);
    detail(&full);
    let huge = flood(65_000)?;
    row("port to port, 64 KiB to be cut", huge.gbits, "Gbit/s", true, 60.0);
    detail(&huge);
    let crowded = crowded(64)?;
    row("cost of 1,000 ports and 10,000 addresses, 64 B", crowded.nanos / small.nanos, "times", false, 1.5);
    let (added, direct) = latency()?;
    row("added latency, idle, median", added, "µs", false, 20.0);
    println!("{:<52} {direct:>10.2} µs", "  (a ring without a switch, one way)");
    let (mib, percent) = idle()?;
    row("idle with 100 ports: memory", mib, "MiB", false, 15.0);
    row("idle with 100 ports: processor", percent, "%", false, 0.2);
    Ok(())
}

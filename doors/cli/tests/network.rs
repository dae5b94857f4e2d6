//! Debian guests on the network. Behind a NAT of their own: address, names, files, forwards with both kinds of adapters, and boot from
//! the network. On a switch: each other.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use support::{Guest, bulkhead, guest_file, worker_is_there};

/// Where Debian's package has the installer for network boot.
const INSTALLER: &str = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";

/// Writes what udhcpc runs when it has a lease; without backslashes, which the guest's `read` would take.
const LEASE_SCRIPT: &str = "mkdir -p /etc; for line in '#!/bin/busybox sh' '[ $1 = bound ] || exit 0' \
     'ifconfig $interface $ip netmask $subnet' 'route add default gw $router' \
     'echo nameserver $dns > /etc/resolv.conf' 'echo LEASE $ip $router $dns $domain'; \
     do echo \"$line\" >> /tmp/lease; done; chmod +x /tmp/lease";

fn nat_is_there() -> bool {
    let there = Path::new(bulkhead().get_program()).with_file_name("bulkhead-nat").exists();
    if !there {
        eprintln!("skipped: bulkhead-nat is not built; run `cargo build --profile ci --bins` first");
    }
    there
}

/// A server of the host that answers one request of HTTP with `text`, again and again.
#[allow(clippy::disallowed_methods, reason = "a server of the host lives in a thread")]
fn http_server(text: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    port
}

/// What a guest does, whatever its adapter.
fn uses_the_network(adapter: &str, driver: &str) {
    if !worker_is_there() || !nat_is_there() {
        return;
    }
    let (Some(kernel), Some(initrd)) = (guest_file("services/vmlinuz"), guest_file("services/initrd")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file: Vec<u8> = (0..3_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(folder.path().join("file"), &file).unwrap();
    let forwarded = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let web = http_server("from the host\n");
    let nic = format!("nat,host,{adapter}boot-folder={},forward={forwarded}:7", folder.path().display());
    let mut guest = Guest::boot([
        "--engine",
        "soft",
        "--no-reboot",
        "--nic",
        &nic,
        "--kernel",
        kernel.to_str().unwrap(),
        "--initrd",
        initrd.to_str().unwrap(),
        "--cmdline",
        "console=ttyS0 panic=-1",
    ]);
    guest.expect("FIRST-PROCESS", 240);
    guest.command(&format!("modprobe {driver}; {LEASE_SCRIPT}"), 60);
    guest.command("until [ -e /sys/class/net/eth0 ]; do usleep 100000; done; hostname walrus", 60);
    // The domain is given too, and who asks is known by name afterwards.
    let lease = guest.command("ifconfig eth0 up; udhcpc -i eth0 -n -q -s /tmp/lease -x hostname:walrus", 60);
    assert!(lease.contains("LEASE 192.168.137.10 192.168.137.1 192.168.137.1 internal"), "{lease}");
    let names = guest.command("nslookup walrus.internal; nslookup gateway.internal; nslookup 192.168.137.10", 60);
    assert!(names.contains("192.168.137.10") && names.contains("walrus.internal"), "{names}");
    guest.command(&format!("wget -q -O - http://192.168.137.1:{web}/"), 60);
    assert!(guest.text.contains("from the host"));
    // By HTTP and by TFTP; the sums are the guest's.
    guest.command("wget -q -O /tmp/a http://192.168.137.1/file; tftp -g -r file -l /tmp/b -b 1468 192.168.137.1", 120);
    guest.command("cmp /tmp/a /tmp/b && echo SAME $(wc -c < /tmp/a)", 60);
    assert!(guest.text.contains("SAME 3000000"));
    let sum = guest.command("md5sum < /tmp/a", 60);
    assert!(sum.contains(&md5(&folder.path().join("file"))), "{sum}");
    assert!(guest.command("ping -c 2 192.168.137.1", 60).contains("2 packets received"));
    assert!(guest.command("nc 192.168.137.1 1 < /dev/null 2>&1", 60).contains("refused"));
    // From outside.
    guest.send("nc -l -p 7 -e echo from the guest &\n");
    guest.expect("READY", 60);
    guest.command("until netstat -ltn | grep -q ':7 '; do usleep 100000; done", 60);
    let mut answer = String::new();
    TcpStream::connect(("127.0.0.1", forwarded)).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "from the guest\n");
    guest.send("off\n");
    assert_eq!(guest.end(60).0.code(), Some(0));
}

/// The host's own sum.
fn md5(file: &Path) -> String {
    let output = Command::new("md5sum").arg(file).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().to_owned()
}

#[test]
fn a_guest_with_the_legacy_adapter_uses_the_network() {
    uses_the_network("legacy,", "tulip");
}

#[test]
fn a_guest_with_the_synthetic_adapter_uses_the_network() {
    uses_the_network("", "hv_netvsc");
}

#[test]
fn the_installer_starts_from_the_network() {
    if !worker_is_there() || !nat_is_there() {
        return;
    }
    if !Path::new("/usr/lib/ipxe/ipxe.lkrn").exists() || !Path::new(INSTALLER).exists() {
        eprintln!("skipped: the packages ipxe and debian-installer-12-netboot-amd64 are not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for file in ["linux", "initrd.gz"] {
        std::fs::copy(Path::new(INSTALLER).join(file), folder.path().join(file)).unwrap();
    }
    // The script by TFTP, which iPXE takes names without an address for; the rest by HTTP.
    let script = "#!ipxe\nkernel http://${next-server}/linux console=ttyS0 --- quiet\n\
                  initrd http://${next-server}/initrd.gz\nboot\n";
    std::fs::write(folder.path().join("boot.ipxe"), script).unwrap();
    let nic = format!("nat,legacy,boot-folder={},boot-file=boot.ipxe", folder.path().display());
    let mut guest = Guest::boot(["--engine", "soft", "--memory", "1G", "--boot", "net", "--nic", &nic]);
    guest.expect("Select a language", 420);
    guest.terminate();
    assert_eq!(guest.end(60).0.code(), Some(0));
}

#[test]
fn impossible_networks_are_usage_errors() {
    for (arguments, told) in [
        (&["--nic", "nat", "--nic", "nat"][..], "single adapter"),
        (&["--nic", "lan,speed=1"], "is no option"),
        (&["--boot", "net"], "legacy network adapter"),
    ] {
        let output = bulkhead().arg("boot").args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
    }
}

/// `bulkhead-switch` below a root of its own.
struct Switch {
    root: tempfile::TempDir,
    process: Child,
}

impl Switch {
    #[allow(clippy::disallowed_methods, reason = "waits for a real process")]
    fn start(root: tempfile::TempDir) -> Option<Switch> {
        let program = Path::new(bulkhead().get_program()).with_file_name("bulkhead-switch");
        if !program.exists() {
            eprintln!("skipped: bulkhead-switch is not built; run `cargo build --profile ci --bins` first");
            return None;
        }
        let process = Command::new(program).arg("--root").arg(root.path()).spawn().unwrap();
        let switch = Switch { root, process };
        for _ in 0..1000 {
            if switch.bulkhead(&["switch", "list"]).output().unwrap().status.success() {
                return Some(switch);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the switch does not answer");
    }

    fn bulkhead(&self, arguments: &[&str]) -> Command {
        let mut command = bulkhead();
        command.args(arguments).env("BULKHEAD_ROOT", self.root.path());
        command
    }

    /// Kills it without a word, and starts its successor.
    fn die_and_come_back(mut self) -> Switch {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        Switch::start(root).unwrap()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn two_guests_on_a_switch_talk_and_outlive_it() {
    if !worker_is_there() {
        return;
    }
    let (Some(kernel), Some(initrd)) = (guest_file("services/vmlinuz"), guest_file("services/initrd")) else { return };
    let Some(switch) = Switch::start(tempfile::tempdir().unwrap()) else { return };
    let made = switch.bulkhead(&["switch", "create", "lab", "--type", "private", "--mtu", "9000"]).status().unwrap();
    assert!(made.success());
    let boot = ["boot", "--engine", "soft", "--memory", "384M", "--no-reboot", "--nic", "lab", "--kernel"];
    let files = [kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()];
    let arguments = [&boot[..], &files, &["--cmdline", "console=ttyS0 panic=-1 quiet"]].concat();
    let mut guests = [1, 2].map(|_| Guest::start(switch.bulkhead(&arguments)));
    for (guest, number) in guests.iter_mut().zip(1..) {
        guest.expect("FIRST-PROCESS", 240);
        guest.command("modprobe hv_netvsc; until [ -e /sys/class/net/eth0 ]; do usleep 100000; done", 60);
        guest.command(&format!("ip address add 10.9.0.{number}/24 dev eth0; ip link set eth0 mtu 9000 up"), 60);
    }
    let [here, there] = &mut guests;
    // The longest packet that is not cut: an answer to it is one of the other guest.
    let ping = "until ping -c 1 -W 1 -s 8972 10.9.0.2 > /dev/null; do :; done; ping -c 3 -s 8972 10.9.0.2";
    assert!(here.command(ping, 60).contains(" 0% packet loss"), "{}", here.text);
    there.send("nc -l -p 9 > /tmp/got; echo GOT $(md5sum < /tmp/got)\n");
    let sent = here.command("dd if=/dev/urandom of=/tmp/sent bs=1M count=64; echo SUM $(md5sum < /tmp/sent)", 120);
    here.command("until nc -w 5 10.9.0.2 9 < /tmp/sent; do usleep 100000; done", 240);
    there.expect("\nGOT ", 60);
    there.expect("READY", 60);
    let sum = |text: &str, mark: &str| text.rsplit_once(mark).map(|(_, rest)| rest[..32].to_owned());
    assert_eq!(sum(&sent, "\nSUM "), sum(&there.text, "\nGOT "));

    let _switch = switch.die_and_come_back();
    assert!(here.command(ping, 60).contains(" 0% packet loss"), "{}", here.text);
    for mut guest in guests {
        guest.send("off\n");
        assert_eq!(guest.end(60).0.code(), Some(0));
    }
}

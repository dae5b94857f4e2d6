//! Disks beside qemu's, in one run: the rows and bars of the design. Ours and the rival take turns; medians of three.
//!
//! The files lie in target/bench (about 20 GiB, deleted afterwards), so the machine's disk is part of what is measured: only the
//! ratios mean something, and only when nothing else runs. All images of a row are made in the same way, by `disk convert`: what
//! a file system does with a file depends on how it was written.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a measurement needs the clock")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{command, packages, workspace};

const SIZE: u64 = 2 << 30;
const ROUNDS: usize = 3;

/// One measured pair. Times: smaller is better; rates: larger is better.
struct Row {
    name: String,
    ours: f64,
    rival: f64,
    unit: &'static str,
    /// The ratio ours / rival must be at most (times) or at least (rates) this.
    bar: f64,
    is_rate: bool,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours / self.rival
    }

    fn is_met(&self) -> bool {
        if self.is_rate { self.ratio() >= self.bar } else { self.ratio() <= self.bar }
    }
}

/// Prints the table.
pub fn run() -> Result<()> {
    packages::install_missing()?;
    command::run(command::cargo().args(["build", "--release", "-p", "bulkhead_cli", "-p", "bulkhead_vm"]))?;
    let bench = Bench::new()?;
    let mut rows = bench.convert()?;
    rows.extend(bench.random_writes()?);
    rows.extend(bench.allocation()?);
    rows.push(bench.chain()?);
    rows.push(bench.compare()?);
    rows.extend(bench.info()?);
    rows.extend(bench.sparse()?);
    println!("\n{:<52} {:>10} {:>10} {:<6} {:>7} {:>9}", "row", "ours", "rival", "unit", "ratio", "bar");
    for row in &rows {
        let (sign, verdict) = (if row.is_rate { "≥" } else { "≤" }, if row.is_met() { "" } else { "  MISSED" });
        println!(
            "{:<52} {:>10.2} {:>10.2} {:<6} {:>7.2} {:>9}{verdict}",
            row.name,
            row.ours,
            row.rival,
            row.unit,
            row.ratio(),
            format!("{sign} {}", row.bar),
        );
    }
    Ok(())
}

/// The folder and its source disk.
struct Bench {
    folder: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server with its socket.
struct Served {
    child: Child,
    uri: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGTERM, so that images are closed properly.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let folder = workspace::root().join("target/bench");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot clear target/bench")?;
        }
        fs::create_dir_all(&folder).context("cannot make target/bench")?;
        let bench = Self { folder };
        let mut file = File::create(bench.path("data.raw"))?;
        let mut random = Random(1);
        for _ in 0..SIZE >> 20 {
            file.write_all(&random.bytes(1 << 20))?;
        }
        file.sync_all()?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn ours(&self, words: &[&str]) -> Command {
        let mut command = Command::new(workspace::release_program("bulkhead"));
        command.arg("disk").args(words).current_dir(&self.folder).stdout(Stdio::null());
        command
    }

    fn tool(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.folder).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs commands that each make `made`, in turns; the medians of their seconds.
    fn race<const N: usize>(&self, made: &[&str], contestants: [&dyn Fn() -> Command; N]) -> Result<[f64; N]> {
        let mut seconds = [(); N].map(|()| Vec::new());
        for _ in 0..ROUNDS {
            for (contestant, seconds) in contestants.iter().zip(&mut seconds) {
                for name in made {
                    let _ = fs::remove_file(self.path(name));
                }
                // What others left to be written is not this one's burden.
                command::run(&mut Command::new("sync"))?;
                seconds.push(time(&mut contestant())?);
            }
        }
        Ok(seconds.map(|mut seconds| median(&mut seconds)))
    }

    fn convert(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (format, qemu, options) in
            [("vhd", "vpc", "subformat=dynamic,force_size=on"), ("vhdx", "vhdx", "subformat=dynamic")]
        {
            let target = format!("out.{format}");
            let [ours, theirs, raw] = self.race(
                &[&target, "copy.raw"],
                [
                    &|| self.ours(&["convert", "data.raw", &target]),
                    &|| {
                        let words = ["convert", "-t", "none", "-T", "none", "-f", "raw", "-O", qemu, "-o", options];
                        let mut command = self.tool("qemu-img", &words);
                        command.args(["data.raw", &target]);
                        command
                    },
                    &|| self.tool("dd", &["if=data.raw", "of=copy.raw", "bs=4M", "oflag=direct", "conv=fsync"]),
                ],
            )?;
            let row = |rival: &str, value, bar| Row {
                name: format!("durable convert, raw to {format}, beside {rival}"),
                ours,
                rival: value,
                unit: "s",
                bar,
                is_rate: false,
            };
            rows.push(row("qemu-img", theirs, 0.8));
            rows.push(row("dd", raw, 1.15));
        }
        Ok(rows)
    }

    fn serve(&self, image: &str, extra: &[&str]) -> Result<Served> {
        let _ = fs::remove_file(self.path("socket"));
        let mut command = self.ours(&["serve", image, "--nbd", "unix:socket", "--persistent"]);
        let mut child = command.args(extra).stdout(Stdio::piped()).spawn().context("cannot serve")?;
        let output = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let served = Served { child, uri: self.uri() };
        if line.is_empty() {
            bail!("the server of {image} ended at once");
        }
        self.await_socket(served)
    }

    fn serve_by_qemu(&self, image: &str, format: &str) -> Result<Served> {
        let _ = fs::remove_file(self.path("socket"));
        let socket = self.path("socket").display().to_string();
        let words = ["-k", &socket, "-e", "4", "-t", "-f", format, "--cache=writeback", "--aio=threads", image];
        let child = self.tool("qemu-nbd", &words).spawn().context("cannot start qemu-nbd")?;
        self.await_socket(Served { child, uri: self.uri() })
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.path("socket").display())
    }

    fn await_socket(&self, served: Served) -> Result<Served> {
        let start = Instant::now();
        while !self.path("socket").exists() {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("no server listens at {}", served.uri);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(served)
    }

    /// Requests per second by fio's clock, the final flush included.
    fn fio(&self, served: &Served, kind: &str, bytes: &str, count: u32) -> Result<f64> {
        let words = ["--name=a", "--ioengine=nbd", "--iodepth=32", "--size=2G", "--norandommap", "--end_fsync=1"];
        let mut command = self.tool("fio", &words);
        command.args([format!("--uri={}", served.uri), format!("--rw={kind}"), format!("--bs={bytes}")]);
        command.args(["--output-format=json".into(), format!("--number_ios={count}")]);
        let output = command.stdout(Stdio::piped()).output().context("cannot start fio")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("fio failed: {said}");
        }
        // Notes may stand in front.
        let json = said.find('{').map_or("", |start| &said[start..]);
        let said: serde_json::Value = serde_json::from_str(json).context("fio says something else")?;
        let job = &said["jobs"][0];
        let side = if kind.ends_with("read") { "read" } else { "write" };
        match (job[side]["total_ios"].as_f64(), job["job_runtime"].as_f64()) {
            (Some(requests), Some(milliseconds)) if milliseconds > 0.0 => Ok(requests * 1000.0 / milliseconds),
            _ => bail!("fio counted nothing: {job}"),
        }
    }

    fn random_writes(&self) -> Result<Vec<Row>> {
        let images = ["ours.raw", "theirs.raw", "ours.vhd", "theirs.vhd", "ours.vhdx", "theirs.vhdx"];
        for name in images {
            let kind = if name.ends_with("raw") { "fixed" } else { "dynamic" };
            command::run(&mut self.ours(&["convert", "data.raw", name, "--kind", kind]))?;
        }
        let mut rates = [const { Vec::new() }; 6];
        for _ in 0..ROUNDS {
            for (image, rates) in images.iter().zip(&mut rates) {
                let format =
                    if image.ends_with("vhd") { "vpc" } else { image.split_once('.').map_or("raw", |two| two.1) };
                // qemu's dynamic VHDs would take minutes.
                let count = if *image == "theirs.vhd" { 6_000 } else { 40_000 };
                command::run(&mut Command::new("sync"))?;
                let served = if image.starts_with("ours") {
                    self.serve(image, &["--cache", "writeback"])?
                } else {
                    self.serve_by_qemu(image, format)?
                };
                rates.push(self.fio(&served, "randwrite", "4k", count)?);
            }
        }
        for name in images {
            fs::remove_file(self.path(name)).context("an image is gone")?;
        }
        let [raw, qemu_raw, vhd, qemu_vhd, vhdx, qemu_vhdx] = rates.map(|mut rates| median(&mut rates));
        let row = |name: &str, ours, rival, bar| Row {
            name: format!("random 4 KiB write, NBD, qd 32: {name}"),
            ours,
            rival,
            unit: "IOPS",
            bar,
            is_rate: true,
        };
        Ok(vec![
            row("raw, qemu", raw, qemu_raw, 1.0),
            row("VHD, our raw", vhd, raw, 0.9),
            row("VHD, qemu", vhd, qemu_vhd, 3.0),
            row("VHDX, our raw", vhdx, raw, 0.9),
            row("VHDX, qemu", vhdx, qemu_vhdx, 1.2),
        ])
    }

    /// 400 blocks for the first time, 20 MiB apart; ours even goes through a socket.
    fn allocation(&self) -> Result<Vec<Row>> {
        let bench = ["bench", "-w", "-c", "400", "-d", "8", "-s", "65536", "-S", "20971520"];
        let mut rows = Vec::new();
        for (format, qemu) in [("vhd", "vpc"), ("vhdx", "vhdx")] {
            let (mine, theirs) = (format!("first.{format}"), format!("first-theirs.{format}"));
            let (mut ours, mut rival) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                for name in [&mine, &theirs] {
                    let _ = fs::remove_file(self.path(name));
                }
                command::run(&mut self.ours(&["create", &mine, "--size", "8G"]))?;
                command::run(&mut self.tool("qemu-img", &["create", "-f", qemu, &theirs, "8G"]))?;
                command::run(&mut Command::new("sync"))?;
                let served = self.serve(&mine, &["--cache", "direct"])?;
                let mut command = self.tool("qemu-img", &bench);
                ours.push(time(command.args(["-f", "raw", &served.uri]))?);
                drop(served);
                let mut command = self.tool("qemu-img", &bench);
                rival.push(time(command.args(["-t", "none", "-i", "io_uring", "-f", qemu, &theirs]))?);
            }
            rows.push(Row {
                name: format!("first write to 400 blocks, {format}, qemu"),
                ours: median(&mut ours),
                rival: median(&mut rival),
                unit: "s",
                bar: 0.3,
                is_rate: false,
            });
        }
        Ok(rows)
    }

    /// Each of twenty layers rewrites a twentieth; depth 1 is the same disk flattened.
    fn chain(&self) -> Result<Row> {
        let mut top = "base.vhdx".to_owned();
        command::run(&mut self.ours(&["convert", "data.raw", &top]))?;
        for layer in 1..20 {
            let child = format!("layer-{layer}.vhdx");
            command::run(&mut self.ours(&["create", &child, "--kind", "differencing", "--parent", &top]))?;
            let served = self.serve(&child, &[])?;
            self.fio(&served, "randwrite", "64k", 1638)?;
            top = child;
        }
        command::run(&mut self.ours(&["convert", &top, "flat.vhdx"]))?;
        let (mut deep, mut flat) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (image, rates) in [(top.as_str(), &mut deep), ("flat.vhdx", &mut flat)] {
                let served = self.serve(image, &["--read-only"])?;
                // The first pass warms the page cache.
                self.fio(&served, "read", "1M", 2048)?;
                rates.push(self.fio(&served, "randread", "4k", 100_000)?);
            }
        }
        let (ours, rival) = (median(&mut deep), median(&mut flat));
        let name = "random 4 KiB read, NBD, chain of 20, depth 1".into();
        Ok(Row { name, ours, rival, unit: "IOPS", bar: 0.95, is_rate: true })
    }

    fn compare(&self) -> Result<Row> {
        command::run(&mut self.ours(&["convert", "data.raw", "same.vhdx"]))?;
        // Both find the disks in the page cache.
        command::run(&mut self.ours(&["compare", "data.raw", "same.vhdx"]))?;
        let [ours, rival] = self.race(
            &[],
            [&|| self.ours(&["compare", "data.raw", "same.vhdx"]), &|| {
                self.tool("qemu-img", &["compare", "-f", "raw", "-F", "vhdx", "data.raw", "same.vhdx"])
            }],
        )?;
        Ok(Row { name: "compare two of 2 GiB, qemu-img".into(), ours, rival, unit: "s", bar: 1.0, is_rate: false })
    }

    /// Against numbers, not a rival.
    fn info(&self) -> Result<Vec<Row>> {
        command::run(&mut self.ours(&["create", "huge.vhdx", "--size", "64T"]))?;
        let (mut milliseconds, mut mebibytes) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let program = workspace::release_program("bulkhead");
            let mut command = Command::new("/usr/bin/time");
            command.args(["-f", "%M"]).arg(program).args(["disk", "info", "huge.vhdx"]).current_dir(&self.folder);
            let start = Instant::now();
            let output = command.output().context("/usr/bin/time (package time)")?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
            let said = String::from_utf8_lossy(&output.stderr);
            let kibibytes: f64 = said.trim().parse().with_context(|| format!("disk info said: {said}"))?;
            mebibytes.push(kibibytes / 1024.0);
        }
        let row =
            |name: &str, ours, rival, unit| Row { name: name.into(), ours, rival, unit, bar: 1.0, is_rate: false };
        Ok(vec![
            row("info on a VHDX of 64 TiB, time, 20 ms", median(&mut milliseconds), 20.0, "ms"),
            row("info on a VHDX of 64 TiB, memory, 20 MiB", median(&mut mebibytes), 20.0, "MiB"),
        ])
    }

    /// What the file takes beside its data, 4 MiB in every 16 MiB, and its length beside that of the best packing into the
    /// format's smallest blocks (1 MiB): the pieces begin 64 KiB behind a block's begin, so each touches five.
    fn sparse(&self) -> Result<Vec<Row>> {
        let file = File::create(self.path("sparse.raw"))?;
        file.set_len(8 << 30)?;
        let mut random = Random(2);
        for extent in 0..512 {
            file.write_all_at(&random.bytes(4 << 20), extent * (16 << 20) + (64 << 10))?;
        }
        command::run(&mut self.ours(&["convert", "sparse.raw", "sparse.vhdx"]))?;
        let made = fs::metadata(self.path("sparse.vhdx"))?;
        let row = |name: &str, bytes: u64, rival| Row {
            name: name.into(),
            ours: bytes as f64 / f64::from(1 << 20),
            rival,
            unit: "MiB",
            bar: 1.05,
            is_rate: false,
        };
        Ok(vec![
            row("sparse convert to VHDX: space taken, its data", made.blocks() * 512, 2048.0),
            row("sparse convert to VHDX: length, best possible", made.len(), 2560.0),
        ])
    }
}

/// Seconds of a command that succeeds.
fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    command::run(command)?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Xorshift: bytes that no format can leave out or compress.
struct Random(u64);

impl Random {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            out.extend(self.0.to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

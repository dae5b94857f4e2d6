//! One VM: its machine, threads and clock, and the states that it goes through.
//!
//! ```text
//! made ──► running ⇄ paused ──► ended          (save: paused, then ended)
//! ```

use crate::cables::Cables;
use crate::clock::Clock;
use crate::control::Input;
use crate::disks::{DiskFiles, IoThread};
use crate::engine::Chosen;
use crate::executor::{Executor, Runnable};
use crate::power::{Gate, PowerSwitch};
use crate::save::wall_clock;
use crate::stats::Meter;
use crate::{engine, save, serial};
use anyhow::{Context, Result};
use bulkhead_engine::{Engine, VpState};
use bulkhead_guest_log::GuestLog;
use bulkhead_machine::saved_state::{SavedMachine, head};
use bulkhead_machine::{GuestRequests, Machine, MachineConfig, Resources};
use bulkhead_reactor::{Reactor, Time};
use bulkhead_saved_state::SavedFile;
use bulkhead_serial::FdPort;
use bulkhead_vm_description::{DriveKind, VmDescription};
use bulkhead_worker_protocol::{Stats, resource};
use crossbeam_channel::{Sender, bounded};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A VM and everything that runs it.
pub struct Vm {
    // Dropped in this order: first who uses, then who is used.
    executor: Executor,
    _cables: Cables,
    serial: Vec<FdPort>,
    machine: Machine,
    clock: Clock,
    reactor: Reactor,
    io: IoThread,
    resources: Resources,
    /// The files of drives that can be removed, by the drives' names.
    removable: BTreeMap<String, String>,
    /// What the guest asks of the machine as a whole, and should not.
    log: GuestLog,
    meter: Meter,
    /// The engine outlives its partition.
    _engine: Box<dyn Engine>,
    paused: bool,
    no_reboot: bool,
}

/// The saved VM that a new one continues.
struct Saved {
    file: SavedFile,
    head: SavedMachine,
    memory: OwnedFd,
}

impl Vm {
    /// Makes a VM, or with `restore` the one that was saved. It is paused.
    ///
    /// # Errors
    /// Everything that can be wrong with a description, its files and the host.
    pub fn make(
        description: &VmDescription,
        mut resources: Resources,
        restore: bool,
        inputs: &Sender<Input>,
    ) -> Result<Vm> {
        description.check().context("the description of the VM is refused")?;
        let saved = if restore { Some(read_saved(&mut resources)?) } else { None };
        let Chosen { engine, tsc_hz } = engine::choose(&description.processor)?;
        let meter = Meter::start(engine.kind());
        let start = saved.as_ref().map_or(Time::ZERO, |saved| Time::from_nanos(saved.head.now));
        let deterministic = description.processor.deterministic;
        let (clock, driver, reactor) = if deterministic {
            let (clock, driver, reactor) = Clock::counted(start).context("cannot make a clock")?;
            (clock, Some(driver), reactor)
        } else {
            let (clock, reactor) = Clock::host(start).context("cannot start the device loop")?;
            (clock, None, reactor)
        };
        let io = IoThread::start(deterministic)?;
        open_disks(description, &mut resources, &io)?;
        let gate = Gate::new();
        let guest: Arc<dyn GuestRequests> = Arc::new(PowerSwitch { gate: gate.clone(), inputs: inputs.clone() });
        // A deterministic guest gets a fixed date: the first day of 2026.
        let now = if deterministic { Duration::from_secs(1_767_225_600) } else { wall_clock() };
        let config = MachineConfig {
            description,
            engine: engine.as_ref(),
            reactor: reactor.clone(),
            tsc_hz: saved.as_ref().map_or(tsc_hz, |saved| saved.head.tsc_hz),
            wall_clock: now,
            host_time: if deterministic { counted_time(&reactor, now) } else { Arc::new(wall_clock) },
            resources: &resources,
            guest,
        };
        let (machine, states) = match saved {
            Some(Saved { file, head, memory }) => {
                let (machine, states) = Machine::restore(&config, file, memory)?;
                if let Some(rtc) = machine.handles().rtc.as_ref().filter(|_| !deterministic) {
                    rtc.lock().advance(now.saturating_sub(Duration::from_secs(head.wall_seconds)));
                }
                (machine, states)
            }
            None => {
                let machine = Machine::new(&config)?;
                let states = machine.power_on(&resources)?;
                (machine, states)
            }
        };
        gate.set_partition(machine.partition(), description.processor.count);
        let vps = make_vps(&machine, &states)?;
        // Input may come at once, and its interrupt needs a local APIC to go to.
        let serial = serial::connect(description, &machine, &mut resources, &reactor, inputs)?;
        let _cables = Cables::plug_in(description, &machine, &mut resources)?;
        let executor = match driver {
            Some(driver) => Executor::deterministic(vps, driver, gate, inputs),
            None => Executor::threaded(vps, gate, inputs),
        };
        let executor = executor.context("cannot start the processor threads")?;
        let no_reboot = description.boot.no_reboot;
        let removable = removable_drives(description);
        Ok(Vm {
            executor,
            _cables,
            serial,
            machine,
            clock,
            log: GuestLog::new(&reactor, "machine"),
            reactor,
            io,
            resources,
            removable,
            meter,
            _engine: engine,
            paused: true,
            no_reboot,
        })
    }

    /// Lets it run.
    pub fn run(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.machine.start();
            self.clock.resume();
            self.executor.run();
        }
    }

    /// Stops processors and time, and waits until no device has work in flight.
    pub fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.executor.stop();
            self.clock.pause();
            let (quiet, is_quiet) = bounded(1);
            self.machine.pause(move || {
                let _ = quiet.send(());
            });
            self.executor.wait_still(&is_quiet);
        }
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether a reset ends the VM.
    pub fn ends_on_reset(&self) -> bool {
        self.no_reboot
    }

    /// Resets the whole machine and runs it.
    ///
    /// # Errors
    /// The direct kernel cannot be loaded again.
    pub fn reset(&mut self) -> Result<()> {
        self.pause();
        self.machine.reset_devices();
        let states = self.machine.power_on(&self.resources)?;
        self.executor.set_states(states)?;
        self.meter.count_reset();
        self.run();
        Ok(())
    }

    /// Saves it into the files that were passed. It is paused afterwards.
    ///
    /// # Errors
    /// A file cannot be written; the VM is still whole.
    pub fn save(&mut self) -> Result<()> {
        // A saved VM names its disks.
        self.io.cancel_merges();
        self.pause();
        self.io.flush().context("cannot flush the disks")?;
        let states = self.executor.states()?;
        save::save(&self.machine, &states, self.reactor.now(), &mut self.resources)
    }

    /// The files of drives that can be removed, by the drives' names.
    pub fn removable(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.removable
    }

    /// Adds files that were passed later.
    pub fn resources(&mut self) -> &mut Resources {
        &mut self.resources
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Opens a medium that was passed later.
    pub fn io(&self) -> &IoThread {
        &self.io
    }

    /// The log of what the guest can trigger.
    pub fn log(&self) -> &GuestLog {
        &self.log
    }

    /// Counters so far.
    pub fn stats(&mut self) -> Stats {
        let vps = self.executor.stats();
        Stats { disks: self.io.stats(), ..self.meter.read(&self.machine, &vps, &self.reactor) }
    }

    /// Ends it: what the guest has written to serial ports and disks is brought home. Returns its counters.
    pub fn end(mut self) -> (Stats, Result<()>) {
        self.io.cancel_merges();
        self.pause();
        let stats = self.stats();
        for port in &self.serial {
            port.flush();
        }
        let closed = self.io.close().context("what the guest has written to its disks may be lost");
        (stats, closed)
    }
}

/// A host's time that counts with the guest's instructions.
fn counted_time(reactor: &Reactor, start: Duration) -> Arc<dyn Fn() -> Duration + Send + Sync> {
    let reactor = reactor.clone();
    Arc::new(move || start + Duration::from_nanos(reactor.now().as_nanos()))
}

fn read_saved(resources: &mut Resources) -> Result<Saved> {
    let file = resources.take_file(resource::SAVED_STATE).context("the saved state was not passed")?;
    let file = SavedFile::read(BufReader::new(file)).context("the saved state cannot be read")?;
    let head = head(&file)?;
    let memory = resources.take_file(resource::SAVED_MEMORY).context("the saved RAM was not passed")?;
    Ok(Saved { file, head, memory: memory.into() })
}

fn removable_drives(description: &VmDescription) -> BTreeMap<String, String> {
    let drives = description.scsi.iter().enumerate().flat_map(|(number, controller)| {
        controller
            .drives
            .iter()
            .filter_map(move |drive| Some((drive.name(number), drive.medium.as_ref()?.file.clone())))
    });
    drives.collect()
}

fn open_disks(description: &VmDescription, resources: &mut Resources, io: &IoThread) -> Result<()> {
    let ide = description.ide.iter().filter_map(|drive| {
        let medium = drive.medium.as_ref()?;
        Some((medium, medium.read_only || drive.kind == DriveKind::Cd))
    });
    let scsi = description.scsi.iter().flat_map(|controller| &controller.drives).filter_map(|drive| {
        let medium = drive.medium.as_ref()?;
        Some((medium, medium.read_only || drive.kind == DriveKind::Cd))
    });
    let floppy = description.floppy.iter().filter_map(|floppy| floppy.medium.as_ref());
    for (medium, read_only) in ide.chain(scsi).chain(floppy.map(|medium| (medium, medium.read_only))) {
        let files = DiskFiles::take(medium, resources)?;
        let disk = io.open(medium, read_only, &description.name, files)?;
        resources.add_disk(medium.file.clone(), disk);
    }
    Ok(())
}

fn make_vps(machine: &Machine, states: &[VpState]) -> Result<Vec<Runnable>> {
    let mut vps = Vec::new();
    for (index, state) in (0..).zip(states) {
        let vp = machine.partition().create_vp(index, state)?;
        vps.push(Runnable { index, vp, exits: machine.exits(index) });
    }
    Ok(vps)
}

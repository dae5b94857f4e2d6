//! The machine: made, restored, saved, reset, started and paused as a whole.

use crate::MachineError;
use crate::acpi::AcpiConfig;
use crate::board::{AnyDevice, Board, take_state};
use crate::boot::{self, FirmwareTables, Images};
use crate::catalog::CATALOG;
use crate::exits::{ExitCounters, Exits, Wiring};
use crate::layout;
use crate::memory_plan::MemoryPlan;
use crate::network::NicHandle;
use crate::processor_model;
use crate::resources::Resources;
use crate::saved_state::{self, SavedMachine};
use crate::smbios::SmbiosConfig;
use crate::storage::ControllerHandle;
use crate::vmbus::IntegrationHandles;
use crate::windows::Windows;
use bulkhead_balloon::DynamicMemory;
use bulkhead_device::{Line, LineSink, MmioBus, MsiSink, PciBus, PortBus, PowerSink, QuiesceToken};
use bulkhead_engine::cpu_model::CpuModel;
use bulkhead_engine::saved_state::SavedVp;
use bulkhead_engine::{Access, Engine, Msi, Partition, PartitionConfig, VpState};
use bulkhead_floppy::FloppyController;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_hyperv::{CrashSink, HyperV, HyperVConfig, HyperVDevice};
use bulkhead_ide::IdeController;
use bulkhead_input::{SynthKeyboard, SynthMouse};
use bulkhead_integration::heartbeat::HeartbeatState;
use bulkhead_interrupt_controllers::{InterruptLines, Ioapic, Pic};
use bulkhead_pci::PowerManagement;
use bulkhead_ps2::Ps2;
use bulkhead_reactor::Reactor;
use bulkhead_rtc::Rtc;
use bulkhead_saved_state::{SaveWriter, SavedFile};
use bulkhead_serial::Serial;
use bulkhead_socket::Sockets;
use bulkhead_vga::Vga;
use bulkhead_video::SynthVideo;
use bulkhead_vm_description::VmDescription;
use bulkhead_vmbus::VmBus;
use parking_lot::Mutex;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What a machine is made from.
pub struct MachineConfig<'a> {
    /// What it consists of.
    pub description: &'a VmDescription,
    /// What executes its processors.
    pub engine: &'a dyn Engine,
    /// Its time and background work.
    pub reactor: Reactor,
    /// Rate of the guest's TSC in Hz.
    pub tsc_hz: u64,
    /// The time since 1970 that the guest's clock shows first.
    pub wall_clock: Duration,
    /// The host's time since 1970, now.
    pub host_time: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Files and disks by name.
    pub resources: &'a Resources,
    /// Takes what the guest asks of the machine as a whole.
    pub guest: Arc<dyn GuestRequests>,
}

/// What a guest can ask of the machine as a whole. Called under a device's lock on a VP's thread: it must not wait.
pub trait GuestRequests: PowerSink + CrashSink {
    /// A test program ends the VM with this value.
    fn debug_exit(&self, value: u32);

    /// A test program or the BIOS prints something.
    fn debug_print(&self, bytes: &[u8]);

    /// The heartbeat says something else about the guest than before. Called on the reactor's loop.
    fn heartbeat(&self, state: HeartbeatState);

    /// A program in the guest has connected to this port of the host. Called on the reactor's loop.
    fn socket_accepted(&self, port: u32, stream: UnixStream);
}

/// Devices that the outside talks to.
#[derive(Default)]
pub struct Handles {
    /// COM1 and COM2.
    pub serial: [Option<Arc<Mutex<Serial>>>; 2],
    /// Disks and CD drives.
    pub ide: Option<Arc<Mutex<IdeController>>>,
    /// The floppy drive.
    pub floppy: Option<Arc<Mutex<FloppyController>>>,
    /// The screen.
    pub vga: Option<Arc<Mutex<Vga>>>,
    /// Keyboard and mouse.
    pub ps2: Option<Arc<Mutex<Ps2>>>,
    /// The power button.
    pub power_management: Option<Arc<Mutex<PowerManagement>>>,
    /// The clock.
    pub rtc: Option<Arc<Mutex<Rtc>>>,
    /// Network adapters, in the order of the description.
    pub network: Vec<NicHandle>,
    /// VMBus.
    pub vmbus: Option<Arc<VmBus>>,
    /// SCSI controllers, by number.
    pub scsi: Vec<ControllerHandle>,
    /// Integration services.
    pub integration: IntegrationHandles,
    /// Dynamic memory, if the VM has it.
    pub memory: Option<Arc<Mutex<DynamicMemory>>>,
    /// The display of guests with a driver for it.
    pub synthetic_video: Option<Arc<Mutex<SynthVideo>>>,
    /// Sockets between host and guest.
    pub sockets: Option<Sockets>,
    /// The keyboard of guests with a driver for it.
    pub synthetic_keyboard: Option<Arc<Mutex<SynthKeyboard>>>,
    /// The mouse of such guests.
    pub synthetic_mouse: Option<Arc<Mutex<SynthMouse>>>,
}

/// One VM, without the threads that run it.
pub struct Machine {
    description: VmDescription,
    memory: GuestMemory,
    plan: MemoryPlan,
    partition: Arc<dyn Partition>,
    model: CpuModel,
    tsc_hz: u64,
    tables: FirmwareTables,
    pci: PciBus,
    wiring: Arc<Wiring>,
    counters: Vec<Arc<ExitCounters>>,
    devices: Vec<AnyDevice>,
    handles: Handles,
}

impl Machine {
    /// A machine before power-on.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(config: &MachineConfig<'_>) -> Result<Machine, MachineError> {
        let description = config.description;
        description.check()?;
        let firmware = match &description.direct_kernel {
            Some(_) => None,
            None => Some(config.resources.firmware()?),
        };
        let plan = MemoryPlan::new(description, firmware.as_ref().map(|image| image.len() as u64));
        let mut builder = GuestMemory::builder();
        for range in plan.ranges() {
            builder = builder.anonymous(range.start, range.end - range.start);
        }
        let size = description.memory.size.bytes();
        let memory = builder.build().map_err(|source| MachineError::Memory { size, source })?;
        if let Some(image) = &firmware {
            memory.write(layout::firmware_range(image.len() as u64).start, image)?;
        }
        let model = processor_model::choose(config)?;
        Machine::build(config, memory, &plan, model, None)
    }

    /// The machine that was saved as `state` and `memory` (a file that [`GuestMemory::save`] has written), and the states of
    /// its VPs.
    ///
    /// # Errors
    /// [`MachineError`]; `OtherMachine` when the description is not that of the saved machine.
    pub fn restore(
        config: &MachineConfig<'_>,
        mut state: SavedFile,
        memory: OwnedFd,
    ) -> Result<(Machine, Vec<VpState>), MachineError> {
        let description = config.description;
        description.check()?;
        let head: SavedMachine = state.take_kind("machine", saved_state::KIND)?.decode(1..=saved_state::VERSION)?;
        head.check(description)?;
        let model = processor_model::saved(&head.cpu_model, config)?;
        let plan = MemoryPlan::new(description, (head.firmware_len > 0).then_some(head.firmware_len));
        let memory = Arc::new(plan.check_file(memory)?);
        let mut builder = GuestMemory::builder();
        let mut offset = 0;
        // The file has the regions in the order of their addresses.
        for range in plan.ranges() {
            let len = range.end - range.start;
            builder = builder.copy_on_write(range.start, len, memory.clone(), offset);
            offset += len;
        }
        let size = description.memory.size.bytes();
        let memory = builder.build().map_err(|source| MachineError::Memory { size, source })?;
        let mut vps = Vec::new();
        for index in 0..description.processor.count {
            let section = state.take_kind(&format!("vp{index}"), bulkhead_engine::saved_state::KIND)?;
            let saved: SavedVp = section.decode(1..=bulkhead_engine::saved_state::VERSION)?;
            vps.push(saved.restore(index)?);
        }
        let machine = Machine::build(config, memory, &plan, model, Some(&mut state))?;
        state.finish()?;
        Ok((machine, vps))
    }

    fn build(
        config: &MachineConfig<'_>,
        memory: GuestMemory,
        plan: &MemoryPlan,
        model: CpuModel,
        mut saved: Option<&mut SavedFile>,
    ) -> Result<Machine, MachineError> {
        let description = config.description;
        let ram = plan.ram;
        let vps = description.processor.count;
        let partition = config.engine.create_partition(PartitionConfig {
            vp_count: vps,
            memory: memory.clone(),
            cpuid: processor_model::cpuid(config, model),
            reactor: config.reactor.clone(),
            tsc_hz: config.tsc_hz,
            deterministic: description.processor.deterministic,
        })?;
        let windows = map_memory(&partition, &memory, plan)?;
        let serial = [1, 2].map(|port| description.serial_port(port).is_some());
        let tables = FirmwareTables::new(
            &AcpiConfig {
                vps,
                serial,
                floppy: description.floppy.is_some(),
                vmbus: description.hyperv.enabled,
                low_ram: ram.low,
            },
            &SmbiosConfig {
                id: description.id,
                name: description.name.clone(),
                vps,
                memory: description.memory.size.bytes(),
                hyperv: description.hyperv.enabled,
            },
        );
        let (pic, ioapic) = interrupt_controllers(&partition, &mut saved)?;
        let hyperv = hyperv_interface(config, &memory, &partition, &mut saved)?;
        let mut board = Board {
            vm: description,
            config,
            reactor: config.reactor.clone(),
            ram,
            memory: memory.clone(),
            plan,
            partition: partition.clone(),
            tables: &tables,
            windows: windows.clone(),
            ports: PortBus::new(),
            mmio: MmioBus::new(),
            pci: PciBus::new(),
            pci_interrupts: None,
            lines: InterruptLines::new(pic.clone(), ioapic.clone()),
            pic: pic.clone(),
            ioapic: ioapic.clone(),
            hyperv: hyperv.clone(),
            vmbus: None,
            saved,
            devices: Vec::new(),
            handles: Handles::default(),
        };
        for (name, attach) in CATALOG {
            tracing::debug!(name, "attach");
            attach(&mut board)?;
        }
        let (pci, ports) = (board.pci, board.ports);
        let wiring = Wiring { ports, mmio: board.mmio, windows, pic: Pic::ext_int_source(pic), ioapic, hyperv };
        Ok(Machine {
            description: description.clone(),
            memory,
            plan: plan.clone(),
            partition,
            model,
            tsc_hz: config.tsc_hz,
            wiring: Arc::new(wiring),
            counters: (0..vps).map(|_| Arc::default()).collect(),
            devices: board.devices,
            pci,
            handles: board.handles,
            tables,
        })
    }

    /// The states of all VPs after power-on or reset. Loads the direct kernel, if there is one.
    ///
    /// # Errors
    /// The kernel cannot be read or started.
    pub fn power_on(&self, resources: &Resources) -> Result<Vec<VpState>, MachineError> {
        let signature = self.model.cpuid(1).get(1, 0).eax;
        let mut vps: Vec<_> =
            (0..self.description.processor.count).map(|index| VpState::power_on(index, signature)).collect();
        if let Some(direct) = &self.description.direct_kernel {
            let kernel = resources.read(&direct.kernel)?;
            let initrd = direct.initrd.as_deref().map(|name| resources.read(name)).transpose()?;
            let images = Images { kernel: &kernel, initrd: initrd.as_deref(), command_line: &direct.command_line };
            let plan = boot::plan(images, self.plan.ram, &self.tables, vps[0].clone())?;
            plan.write(&self.memory)?;
            boot::set_up_devices(&self.pci, &self.wiring.ports);
            vps[0] = plan.state;
        }
        Ok(vps)
    }

    /// Resets every device. The VPs must stand still; they go on in the states of [`Machine::power_on`].
    pub fn reset_devices(&self) {
        for device in &self.devices {
            device.lock().reset();
        }
    }

    /// The VM starts, or goes on after a pause.
    pub fn start(&self) {
        for device in &self.devices {
            device.lock().start();
        }
    }

    /// Asks every device to become quiet; `all_quiet` runs when nothing is in flight any more.
    pub fn pause(&self, all_quiet: impl FnOnce() + Send + Sync + 'static) {
        let token = QuiesceToken::new(all_quiet);
        for device in &self.devices {
            device.lock().pause(token.clone());
        }
    }

    /// Writes the state of the paused machine: all but the contents of RAM. `times`: VM time in nanoseconds, and the host's in
    /// seconds since 1970.
    ///
    /// # Errors
    /// `out` fails.
    pub fn save<W: Write>(&self, vps: &[VpState], times: (u64, u64), out: W) -> Result<W, MachineError> {
        let mut writer = SaveWriter::new(out)?;
        let firmware_len = self.plan.firmware.as_ref().map_or(0, |range| range.end - range.start);
        let head = SavedMachine::of(&self.description, &self.model, self.tsc_hz, times, firmware_len);
        writer.section("machine", saved_state::KIND, saved_state::VERSION, &head)?;
        for (index, state) in vps.iter().enumerate() {
            let (kind, version) = (bulkhead_engine::saved_state::KIND, bulkhead_engine::saved_state::VERSION);
            writer.section(&format!("vp{index}"), kind, version, &SavedVp::from(state))?;
        }
        for device in &self.devices {
            let device = device.lock();
            writer.state(device.name(), &device.save()?)?;
        }
        Ok(writer.finish()?)
    }

    /// RAM and ROM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The engine's side.
    pub fn partition(&self) -> &Arc<dyn Partition> {
        &self.partition
    }

    /// The processor model that guests see.
    pub fn cpu_model(&self) -> CpuModel {
        self.model
    }

    /// Devices that the outside talks to.
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// The answers to the exits of VP `index`.
    pub fn exits(&self, index: u32) -> Exits {
        Exits::new(index, self.wiring.clone(), self.counters[index as usize].clone())
    }

    /// How often the VPs left the guest, one entry per VP.
    pub fn counters(&self) -> &[Arc<ExitCounters>] {
        &self.counters
    }

    /// Readable state of one device, or of all of them for an empty name.
    pub fn inspect(&self, name: &str) -> Option<serde_json::Value> {
        let mut all = serde_json::Map::new();
        for device in &self.devices {
            let device = device.lock();
            if device.name() == name {
                return Some(device.inspect());
            }
            if name.is_empty() {
                all.insert(device.name().to_owned(), device.inspect());
            }
        }
        name.is_empty().then_some(all.into())
    }
}

/// Shows RAM and ROM to the guest.
fn map_memory(
    partition: &Arc<dyn Partition>,
    memory: &GuestMemory,
    plan: &MemoryPlan,
) -> Result<Arc<Windows>, MachineError> {
    let ram = plan.ram;
    let low = 0..layout::VGA_WINDOW.start.min(ram.low);
    partition.map(low, 0, Access::ReadWrite)?;
    let behind = layout::SHADOW.end;
    partition.map(behind..ram.low, behind, Access::ReadWrite)?;
    if ram.high > 0 {
        partition.map(layout::HIGH_RAM..layout::HIGH_RAM + ram.high, layout::HIGH_RAM, Access::ReadWrite)?;
    }
    let firmware = plan.firmware.clone();
    if let Some(place) = &firmware {
        partition.map(place.clone(), place.start, Access::ReadOnly)?;
    }
    let last_128k = firmware.map(|place| place.end - 0x2_0000);
    Ok(Arc::new(Windows::new(partition.clone(), memory.clone(), last_128k)?))
}

fn hyperv_interface(
    config: &MachineConfig<'_>,
    memory: &GuestMemory,
    partition: &Arc<dyn Partition>,
    saved: &mut Option<&mut SavedFile>,
) -> Result<Option<Arc<HyperV>>, MachineError> {
    if !config.description.hyperv.enabled {
        return Ok(None);
    }
    let interface = HyperVConfig {
        vps: config.description.processor.count,
        memory: memory.clone(),
        reactor: config.reactor.clone(),
        tsc_hz: config.tsc_hz,
        interrupts: Arc::new(ToProcessors(Arc::downgrade(partition))),
        power: config.guest.clone(),
        crashes: config.guest.clone(),
    };
    Ok(Some(match take_state(saved, HyperVDevice::NAME)? {
        Some(state) => HyperV::restore(interface, &state)?,
        None => HyperV::new(interface),
    }))
}

type Controllers = (Arc<Mutex<Pic>>, Arc<Mutex<Ioapic>>);

fn interrupt_controllers(
    partition: &Arc<dyn Partition>,
    saved: &mut Option<&mut SavedFile>,
) -> Result<Controllers, MachineError> {
    let to_processors = Arc::new(ToProcessors(Arc::downgrade(partition)));
    let intr = Line::new(to_processors.clone(), 0);
    let pic = match take_state(saved, "pic")? {
        Some(state) => Pic::restore("pic", intr, &state)?,
        None => Pic::new("pic", intr),
    };
    let ioapic = match take_state(saved, "ioapic")? {
        Some(state) => Ioapic::restore("ioapic", to_processors, &state)?,
        None => Ioapic::new("ioapic", to_processors),
    };
    Ok((Arc::new(Mutex::new(pic)), Arc::new(Mutex::new(ioapic))))
}

/// From the interrupt controllers to the engine. Weak: the engine's VPs hold the controllers through their exits.
struct ToProcessors(Weak<dyn Partition>);

impl MsiSink for ToProcessors {
    fn send_msi(&self, msi: bulkhead_device::Msi) {
        if let Some(partition) = self.0.upgrade() {
            partition.send_msi(Msi { address: msi.address, data: msi.data });
        }
    }
}

impl LineSink for ToProcessors {
    fn set_input(&self, _input: u32, level: bool) {
        if let Some(partition) = self.0.upgrade() {
            partition.set_ext_int(level);
        }
    }
}

//! The controller: a PCI function with two channels at the ports of old.

use crate::channel::{Channel, Host};
use crate::drive::{Drive, DriveConfig, DriveKind, DvdDrive, Slot};
use crate::saved_state::{KIND, SavedChannel, SavedIde, VERSION};
use bulkhead_device::{
    BarKind, BusError, ConfigSpace, Device, Line, PciFunction, PciIdentity, PortBus, PortIo, QuiesceToken,
    SavedConfigSpace,
};
use bulkhead_disk::{Completion, Disk, SECTOR};
use bulkhead_guest_log::GuestLog;
use bulkhead_guest_memory::GuestMemory;
use bulkhead_reactor::Reactor;
use bulkhead_saved_state::{SavedState, SavedStateError};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::{Arc, Weak};

/// Banks: command blocks of both channels, their control blocks, bus-master registers.
const COMMAND: [u8; 2] = [0, 1];
const CONTROL: [u8; 2] = [2, 3];
const BUS_MASTER: u8 = 4;

/// What a controller is connected to.
pub struct Wiring {
    /// Runs completions.
    pub reactor: Reactor,
    /// Where the bus master reads and writes.
    pub memory: GuestMemory,
    /// Ports 1F0h–1F7h, 3F6h, 170h–177h, 376h are taken for good, 16 more at BAR 4.
    pub ports: PortBus,
    /// IRQ 14 and 15, edge-triggered.
    pub irqs: [Line; 2],
}

/// A controller that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IdeError {
    /// Another device has its ports.
    #[error("IDE controller `{name}` cannot have its ports")]
    Ports {
        /// The controller.
        name: String,
        /// Who is in the way.
        #[source]
        source: BusError,
    },
    /// IDE disks have sectors of 512 bytes.
    #[error("a disk with sectors of {sector} bytes cannot be an IDE disk ({slot:?}): attach it to a SCSI controller")]
    SectorSize {
        /// Where it was to be.
        slot: Slot,
        /// Its logical sector.
        sector: u32,
    },
    /// The saved state cannot be read.
    #[error("IDE controller `{name}` cannot be restored")]
    SavedState {
        /// The controller.
        name: String,
        /// Why.
        #[source]
        source: SavedStateError,
    },
    /// The saved state is of other drives, or no state that a controller can be in.
    #[error(
        "IDE controller `{name}` cannot be restored: channel {channel} was saved with other drives, or is damaged; attach the drives that it had"
    )]
    OtherDrives {
        /// The controller.
        name: String,
        /// The channel.
        channel: usize,
    },
}

/// A medium that cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EjectError {
    /// No such drive.
    #[error("there is no DVD drive at {0:?}")]
    NoDvdDrive(Slot),
    /// The guest uses the medium.
    #[error("the guest has locked the tray of the DVD drive at {0:?}: eject inside the guest, or force it")]
    Locked(Slot),
}

/// A PIIX3 IDE controller. Put it on the bus with `pci.add(address, &controller)`, usually at 00:01.1.
pub struct IdeController {
    name: String,
    config: ConfigSpace,
    channels: [Channel; 2],
}

impl IdeController {
    /// A controller after power-on. `drives[channel][drive]`.
    ///
    /// # Errors
    /// `Ports`, `SectorSize`.
    pub fn new(
        name: &str,
        wiring: Wiring,
        drives: [[Option<DriveConfig>; 2]; 2],
    ) -> Result<Arc<Mutex<IdeController>>, IdeError> {
        IdeController::build(name, wiring, drives, None)
    }

    fn build(
        name: &str,
        wiring: Wiring,
        drives: [[Option<DriveConfig>; 2]; 2],
        saved: Option<&SavedConfigSpace>,
    ) -> Result<Arc<Mutex<IdeController>>, IdeError> {
        check_sectors(&drives)?;
        let Wiring { reactor, memory, ports, irqs } = wiring;
        let log = Arc::new(GuestLog::new(&reactor, name));
        let controller = Arc::new_cyclic(|weak: &Weak<Mutex<IdeController>>| {
            let host = Host { reactor, memory, controller: weak.clone(), log };
            let config = config(ports.region(16, name, weak.clone(), BUS_MASTER));
            let config = match saved {
                Some(saved) => config.restored(saved),
                None => config,
            };
            let [first, second] = drives;
            let [irq14, irq15] = irqs;
            let channels = [channel(0, host.clone(), irq14, first), channel(1, host, irq15, second)];
            Mutex::new(IdeController { name: name.into(), config, channels })
        });
        let blocks = [
            (0x1f0..=0x1f7, COMMAND[0]),
            (0x170..=0x177, COMMAND[1]),
            (0x3f6..=0x3f6, CONTROL[0]),
            (0x376..=0x376, CONTROL[1]),
        ];
        for (range, bank) in blocks {
            ports.map(range, &controller, bank).map_err(|source| IdeError::Ports { name: name.into(), source })?;
        }
        Ok(controller)
    }

    /// The controller as it was saved, with the same drives; media come with `drives` too.
    ///
    /// # Errors
    /// Those of [`IdeController::new`]; `SavedState`, `OtherDrives`.
    pub fn restored(
        name: &str,
        wiring: Wiring,
        drives: [[Option<DriveConfig>; 2]; 2],
        saved: &SavedState,
    ) -> Result<Arc<Mutex<IdeController>>, IdeError> {
        let state: SavedIde =
            saved.decode(VERSION..=VERSION).map_err(|source| IdeError::SavedState { name: name.into(), source })?;
        let controller = IdeController::build(name, wiring, drives, Some(&state.config))?;
        {
            let mut guard = controller.lock();
            let this = &mut *guard;
            for (index, saved) in state.channels.into_iter().enumerate() {
                if !saved.apply(&mut this.channels[index]) {
                    return Err(IdeError::OtherDrives { name: name.into(), channel: index });
                }
            }
            this.master_changed();
        }
        Ok(controller)
    }

    /// Puts a medium into a DVD drive, in place of the one that is there.
    ///
    /// # Errors
    /// `NoDvdDrive`; `Locked`, unless `force`.
    pub fn insert(&mut self, slot: Slot, medium: Arc<dyn Disk>, force: bool) -> Result<(), EjectError> {
        self.change_medium(slot, Some(medium), force).map(drop)
    }

    /// Takes the medium out of a DVD drive.
    ///
    /// # Errors
    /// `NoDvdDrive`; `Locked`, unless `force`: then the guest is told that somebody wants it out.
    pub fn eject(&mut self, slot: Slot, force: bool) -> Result<Option<Arc<dyn Disk>>, EjectError> {
        self.change_medium(slot, None, force)
    }

    fn change_medium(
        &mut self,
        slot: Slot,
        medium: Option<Arc<dyn Disk>>,
        force: bool,
    ) -> Result<Option<Arc<dyn Disk>>, EjectError> {
        let drive = self.dvd(slot).ok_or(EjectError::NoDvdDrive(slot))?;
        if drive.medium.is_some() && drive.unit.press_eject().is_err() && !force {
            return Err(EjectError::Locked(slot));
        }
        let was = std::mem::replace(&mut drive.medium, medium);
        if was.is_some() || drive.medium.is_some() {
            drive.unit.medium_changed(drive.medium.is_some());
        }
        Ok(was)
    }

    fn dvd(&mut self, slot: Slot) -> Option<&mut DvdDrive> {
        let channel = self.channels.get_mut(usize::from(slot.channel))?;
        match &mut channel.drives.get_mut(usize::from(slot.drive))?.as_mut()?.kind {
            DriveKind::Atapi(dvd) => Some(dvd),
            DriveKind::Ata(_) => None,
        }
    }

    /// A disk request of a channel ended.
    pub(crate) fn completed(&mut self, channel: usize, completion: Completion) {
        self.channels[channel].completed(completion);
    }

    fn master_changed(&mut self) {
        let enabled = self.config.bus_master();
        for channel in &mut self.channels {
            channel.master_enabled = enabled;
            channel.run_dma();
        }
    }

    fn read_byte(&mut self, bank: u8, offset: u16) -> u8 {
        match bank {
            0 | 1 => self.channels[usize::from(bank)].read(offset),
            2 | 3 => self.channels[usize::from(bank - CONTROL[0])].alternate_status(),
            _ => self.channels[usize::from(offset >> 3 & 1)].bus_master.read(offset & 7),
        }
    }

    fn write_byte(&mut self, bank: u8, offset: u16, value: u8) {
        match bank {
            0 | 1 => self.channels[usize::from(bank)].write(offset, value),
            2 | 3 => self.channels[usize::from(bank - CONTROL[0])].write_control(value),
            _ => {
                let channel = &mut self.channels[usize::from(offset >> 3 & 1)];
                if channel.bus_master.write(offset & 7, value) {
                    channel.run_dma();
                }
            }
        }
    }

    /// The channel whose data register this is.
    fn data(&mut self, bank: u8, offset: u16) -> Option<&mut Channel> {
        (offset == 0).then(|| self.channels.get_mut(usize::from(bank))).flatten()
    }
}

fn check_sectors(drives: &[[Option<DriveConfig>; 2]; 2]) -> Result<(), IdeError> {
    for (channel, drives) in (0..).zip(drives) {
        for (drive, config) in (0..).zip(drives) {
            let Some(DriveConfig::Disk(disk)) = config else { continue };
            let sector = disk.facts().logical_sector;
            if u64::from(sector) != SECTOR {
                return Err(IdeError::SectorSize { slot: Slot { channel, drive }, sector });
            }
        }
    }
    Ok(())
}

fn channel(index: u8, host: Host, irq: Line, drives: [Option<DriveConfig>; 2]) -> Channel {
    let mut number = 0..;
    let drives = drives.map(|config| {
        let drive = number.next().unwrap_or(0);
        config.map(|config| Drive::new(config, Slot { channel: index, drive }))
    });
    Channel::new(index, host, irq, drives)
}

fn config(bus_master: bulkhead_device::PortRegion) -> ConfigSpace {
    // A bus-mastering controller whose channels are in compatibility mode for good.
    let identity = PciIdentity { vendor: 0x8086, device: 0x7010, revision: 0, class: 0x01_0180, subsystem: (0, 0) };
    ConfigSpace::new(identity)
        .with_bar(4, BarKind::Ports(bus_master))
        .with_register(0x06, [0x80, 0x02], [0, 0])
        // Timings; bit 15 of each says that the channel is decoded. Drivers look at it, and without firmware nobody sets it.
        .with_register(0x40, [0, 0x80, 0, 0x80, 0], [0xff; 5])
}

impl Device for IdeController {
    fn name(&self) -> &str {
        &self.name
    }

    fn save(&self) -> Result<SavedState, SavedStateError> {
        let channels = self.channels.each_ref().map(SavedChannel::of);
        SavedState::encode(KIND, VERSION, &SavedIde { config: self.config.save(), channels })
    }

    fn inspect(&self) -> serde_json::Value {
        let channels: Vec<_> = self.channels.iter().map(inspect_channel).collect();
        json!({ "channels": channels })
    }

    fn reset(&mut self) {
        self.config.reset();
        self.channels.iter_mut().for_each(Channel::hard_reset);
        self.master_changed();
    }

    fn pause(&mut self, quiet: QuiesceToken) {
        for channel in self.channels.iter_mut().filter(|channel| channel.in_flight) {
            channel.quiet = Some(quiet.clone());
        }
    }
}

fn inspect_channel(channel: &Channel) -> serde_json::Value {
    let drives: Vec<_> = channel.drives.iter().map(|drive| drive.as_ref().map(inspect_drive)).collect();
    json!({
        "drives": drives,
        "selected": channel.selected(),
        "interrupt": channel.interrupt,
        "in_flight": channel.in_flight,
        "bus_master": { "command": channel.bus_master.command, "status": channel.bus_master.status,
            "table": channel.bus_master.table },
    })
}

fn inspect_drive(drive: &Drive) -> serde_json::Value {
    let size = drive.disk().map(|disk| disk.facts().size);
    let mut value = json!({ "status": drive.regs.status, "error": drive.regs.error, "size": size });
    if let DriveKind::Atapi(dvd) = &drive.kind {
        value["tray_open"] = dvd.unit.tray_open().into();
        value["locked"] = dvd.unit.locked().into();
    }
    value
}

impl PciFunction for IdeController {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.config.read(offset)
    }

    fn config_write(&mut self, offset: u8, size: u8, value: u32) {
        self.config.write(offset, size, value);
        self.master_changed();
    }
}

impl PortIo for IdeController {
    fn port_read(&mut self, bank: u8, offset: u16, size: u8) -> u32 {
        let mut bytes = [0; 4];
        if let Some(channel) = self.data(bank, offset) {
            channel.read_data(&mut bytes[..usize::from(size)]);
        } else {
            for (byte, offset) in bytes[..usize::from(size)].iter_mut().zip(offset..) {
                *byte = self.read_byte(bank, offset);
            }
        }
        u32::from_le_bytes(bytes)
    }

    fn port_write(&mut self, bank: u8, offset: u16, size: u8, value: u32) {
        let bytes = value.to_le_bytes();
        if let Some(channel) = self.data(bank, offset) {
            return channel.write_data(&bytes[..usize::from(size)]);
        }
        for (byte, offset) in bytes[..usize::from(size)].iter().zip(offset..) {
            self.write_byte(bank, offset, *byte);
        }
    }

    fn port_width(&self, _bank: u8) -> u8 {
        4
    }

    fn keeps_waiting(&self, bank: u8) -> bool {
        // Task file or alternate status. The bus master's registers tell more than that.
        bank < 4 && self.channels[usize::from(bank & 1)].in_flight
    }

    fn port_read_string(&mut self, bank: u8, offset: u16, size: u8, data: &mut [u8]) {
        if let Some(channel) = self.data(bank, offset) {
            return channel.read_data(data);
        }
        for item in data.chunks_exact_mut(usize::from(size)) {
            item.copy_from_slice(&self.port_read(bank, offset, size).to_le_bytes()[..usize::from(size)]);
        }
    }

    fn port_write_string(&mut self, bank: u8, offset: u16, size: u8, data: &[u8]) {
        if let Some(channel) = self.data(bank, offset) {
            return channel.write_data(data);
        }
        for item in data.chunks_exact(usize::from(size)) {
            let value = item.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.port_write(bank, offset, size, value);
        }
    }
}

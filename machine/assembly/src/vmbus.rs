//! VMBus and what is on it: integration services, keyboard and mouse. Each is a line of the catalog.

use crate::MachineError;
use crate::board::Board;
use bulkhead_device::Device;
use bulkhead_input::{SynthKeyboard, SynthMouse};
use bulkhead_integration::IntegrationDevice;
use bulkhead_integration::conversation::Service;
use bulkhead_integration::file_copy::FileCopy;
use bulkhead_integration::heartbeat::{Heartbeat, Observer};
use bulkhead_integration::key_value::KeyValue;
use bulkhead_integration::shutdown::Shutdown;
use bulkhead_integration::time_sync::{Clocks, Moment, TimeSync};
use bulkhead_integration::volume_snapshot::VolumeSnapshot;
use bulkhead_socket::Sockets;
use bulkhead_vmbus::{VmBus, VmBusDevice, Wiring};
use bulkhead_vmbus_channel::{BusError, ChannelDevice, Offer, OfferId};
use parking_lot::Mutex;
use std::sync::Arc;

/// The bus of a VM with the Hyper-V interface. Its own state goes on only when all its devices are there again, so it is
/// kept last ([`bus`]).
pub(crate) fn make_bus(board: &mut Board<'_>) -> Result<(), MachineError> {
    let Some(interface) = board.hyperv.clone() else { return Ok(()) };
    let wiring = Wiring {
        reactor: board.reactor.clone(),
        memory: board.memory.clone(),
        synic: interface.synic(),
        vps: board.vm.processor.count,
    };
    let bus = match board.state(VmBusDevice::NAME)? {
        Some(state) => VmBus::restored(wiring, &state)?,
        None => VmBus::new(wiring),
    };
    interface.connect(bus.ports());
    board.vmbus = Some(bus);
    Ok(())
}

/// Puts the bus behind its devices, so that it starts after them.
pub(crate) fn bus(board: &mut Board<'_>) -> Result<(), MachineError> {
    if let Some(bus) = board.vmbus.clone() {
        board.keep(Arc::new(Mutex::new(VmBusDevice::new(bus.clone()))));
        board.handles.vmbus = Some(bus);
    }
    Ok(())
}

/// Offers a device and keeps it.
pub(crate) fn offer<T: Device + ChannelDevice + 'static>(
    board: &mut Board<'_>,
    bus: &Arc<VmBus>,
    offer: Offer,
    device: Arc<Mutex<T>>,
) -> Result<Arc<Mutex<T>>, MachineError> {
    bus.offer(offer, device.clone())?;
    Ok(board.keep(device))
}

type Handle<S> = Option<Arc<Mutex<IntegrationDevice<S>>>>;

/// Integration services; all are there when VMBus is, offered or not.
#[derive(Default)]
pub struct IntegrationHandles {
    /// Shut the guest down.
    pub shutdown: Handle<Shutdown>,
    /// The guest's clock.
    pub time: Handle<TimeSync>,
    /// Whether the guest is alive.
    pub heartbeat: Handle<Heartbeat>,
    /// Keys and values.
    pub key_value: Handle<KeyValue>,
    /// Freezing file systems.
    pub volume_snapshot: Handle<VolumeSnapshot>,
    /// Copying files.
    pub file_copy: Handle<FileCopy>,
    switches: Vec<ServiceSwitch>,
}

/// What offers a service, and takes it away, while the guest runs.
struct ServiceSwitch {
    name: &'static str,
    bus: Arc<VmBus>,
    offer: Offer,
    device: Arc<Mutex<dyn ChannelDevice>>,
    offered: Mutex<Option<OfferId>>,
}

/// Why a service is not switched.
#[derive(Debug, thiserror::Error)]
pub enum ServiceSwitchError {
    /// No such service.
    #[error("there is no integration service {name}; the VM has: {}", .known.join(", "))]
    Unknown {
        /// As asked.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// The bus.
    #[error("the integration service {name} cannot be switched")]
    Bus {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: BusError,
    },
}

impl IntegrationHandles {
    /// Offers a service to the guest, or takes it away.
    ///
    /// # Errors
    /// [`ServiceSwitchError`].
    pub fn switch(&self, name: &str, on: bool) -> Result<(), ServiceSwitchError> {
        let found = self.switches.iter().find(|switch| switch.name == name);
        let known = || self.switches.iter().map(|switch| switch.name).collect();
        found.ok_or_else(|| ServiceSwitchError::Unknown { name: name.into(), known: known() })?.set(on)
    }

    /// Whether a service is offered.
    pub fn is_offered(&self, name: &str) -> bool {
        self.switches.iter().any(|switch| switch.name == name && switch.offered.lock().is_some())
    }
}

impl ServiceSwitch {
    fn set(&self, on: bool) -> Result<(), ServiceSwitchError> {
        let failed = |source| ServiceSwitchError::Bus { name: self.name, source };
        let mut offered = self.offered.lock();
        match (on, *offered) {
            (true, None) => {
                *offered = Some(self.bus.offer(self.offer.clone(), self.device.clone()).map_err(failed)?);
            }
            (false, Some(id)) => {
                self.bus.remove(id).map_err(failed)?;
                *offered = None;
            }
            _ => {}
        }
        Ok(())
    }
}

/// All of them; those that the description switches on are offered.
pub(crate) fn integration_services(board: &mut Board<'_>) -> Result<(), MachineError> {
    let services = board.vm.hyperv.services;
    let (clocks, guest) = (clocks(board), board.config.guest.clone());
    board.handles.integration.shutdown = service(board, services.shutdown, ())?;
    board.handles.integration.time = service(board, services.time, clocks)?;
    let observer: Observer = Arc::new(move |state| guest.heartbeat(state));
    board.handles.integration.heartbeat = service(board, services.heartbeat, observer)?;
    board.handles.integration.key_value = service(board, services.kvp, ())?;
    board.handles.integration.volume_snapshot = service(board, services.vss, ())?;
    board.handles.integration.file_copy = service(board, services.file_copy, ())?;
    Ok(())
}

/// The host's time and the guest's reference counter.
fn clocks(board: &Board<'_>) -> Clocks {
    let (interface, host) = (board.hyperv.clone(), board.config.host_time.clone());
    Arc::new(move || {
        let reference = interface.as_ref().map_or(0, |interface| interface.reference_time());
        Moment { host: host(), reference }
    })
}

fn service<S: Service>(board: &mut Board<'_>, wanted: bool, config: S::Config) -> Result<Handle<S>, MachineError> {
    let Some(bus) = board.vmbus.clone() else { return Ok(None) };
    let name = S::IDENTITY.name;
    let device = match board.state(name)? {
        Some(state) => IntegrationDevice::<S>::restore(&board.reactor, config, &state)?,
        None => IntegrationDevice::<S>::new(&board.reactor, config),
    };
    let offer = IntegrationDevice::<S>::offer();
    let offered = if wanted { Some(bus.offer(offer.clone(), device.clone())?) } else { None };
    let switch = ServiceSwitch { name, bus, offer, device: device.clone(), offered: Mutex::new(offered) };
    board.handles.integration.switches.push(switch);
    Ok(Some(board.keep(device)))
}

/// Sockets between host and guest.
pub(crate) fn sockets(board: &mut Board<'_>) -> Result<(), MachineError> {
    let Some(bus) = board.vmbus.clone() else { return Ok(()) };
    let (reactor, guest) = (board.reactor.clone(), board.config.guest.clone());
    let accepted = Arc::new(move |port, stream| guest.socket_accepted(port, stream));
    let sockets = match board.state(Sockets::NAME)? {
        Some(state) => Sockets::restore(&reactor, bus.channels(), accepted, &state)?,
        None => Sockets::new(&reactor, bus.channels(), accepted),
    };
    bus.set_socket_acceptor(sockets.acceptor());
    board.keep(Arc::new(Mutex::new(sockets.clone())));
    board.handles.sockets = Some(sockets);
    Ok(())
}

/// Keyboard and mouse for guests that have drivers for them; others use PS/2.
pub(crate) fn synthetic_input(board: &mut Board<'_>) -> Result<(), MachineError> {
    let Some(bus) = board.vmbus.clone() else { return Ok(()) };
    let keyboard = match board.state(SynthKeyboard::NAME)? {
        Some(state) => SynthKeyboard::restore(&board.reactor, &state)?,
        None => SynthKeyboard::new(&board.reactor),
    };
    let keyboard = offer(board, &bus, SynthKeyboard::offer(), Arc::new(Mutex::new(keyboard)))?;
    board.handles.synthetic_keyboard = Some(keyboard);
    let mouse = match board.state(SynthMouse::NAME)? {
        Some(state) => SynthMouse::restore(&board.reactor, &state)?,
        None => SynthMouse::new(&board.reactor),
    };
    let mouse = offer(board, &bus, SynthMouse::offer(), Arc::new(Mutex::new(mouse)))?;
    board.handles.synthetic_mouse = Some(mouse);
    Ok(())
}

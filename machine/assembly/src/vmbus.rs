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
use bulkhead_vmbus::{VmBus, VmBusDevice, Wiring};
use bulkhead_vmbus_channel::{ChannelDevice, Offer};
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

/// Integration services that the VM offers.
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
}

/// Those that the description switches on.
pub(crate) fn integration_services(board: &mut Board<'_>) -> Result<(), MachineError> {
    let services = board.vm.hyperv.services;
    let (clocks, guest) = (clocks(board), board.config.guest.clone());
    let observer: Observer = Arc::new(move |state| guest.heartbeat(state));
    board.handles.integration = IntegrationHandles {
        shutdown: service(board, services.shutdown, ())?,
        time: service(board, services.time, clocks)?,
        heartbeat: service(board, services.heartbeat, observer)?,
        key_value: service(board, services.kvp, ())?,
        volume_snapshot: service(board, services.vss, ())?,
        file_copy: service(board, services.file_copy, ())?,
    };
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
    let Some(bus) = board.vmbus.clone().filter(|_| wanted) else { return Ok(None) };
    let device = match board.state(S::IDENTITY.name)? {
        Some(state) => IntegrationDevice::<S>::restore(&board.reactor, config, &state)?,
        None => IntegrationDevice::<S>::new(&board.reactor, config),
    };
    offer(board, &bus, IntegrationDevice::<S>::offer(), device).map(Some)
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

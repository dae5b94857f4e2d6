//! What managing programs ask for.

use crate::capture_writer;
use crate::policy;
use crate::ports::{Port, new_ticket};
use crate::registry::{Registry, VirtualSwitch};
use crate::store::PortRecord;
use crate::uplink;
use bulkhead_ids::{PortId, SwitchId};
use bulkhead_packets::MacAddress;
use bulkhead_port as port;
use bulkhead_switch_core as core;
use bulkhead_switch_protocol::{
    Address, Answer, Hello, HelperRequest, HostPort, PortSettings, PortStatus, Problem, ProblemKind, Request,
    SwitchChange, SwitchDefinition, SwitchKind, SwitchStatus, Traffic, VERSION,
};
use std::os::fd::OwnedFd;

/// Ports and addresses in one answer: a packet holds them with room to spare.
const PAGE: usize = 32;
const PAGE_OF_ADDRESSES: usize = 300;

type Answered = Result<Answer, Problem>;

fn problem(kind: ProblemKind, message: impl Into<String>) -> Problem {
    Problem { kind, message: message.into() }
}

fn invalid(message: impl Into<String>) -> Problem {
    problem(ProblemKind::Invalid, message)
}

fn failed(error: impl std::fmt::Display) -> Problem {
    problem(ProblemKind::Failed, format!("{error:#}"))
}

/// Does what is asked. `captures` are those that end with the connection.
pub fn answer(registry: &mut Registry, request: Request, files: Vec<OwnedFd>, captures: &mut Vec<PortId>) -> Answered {
    match request {
        Request::Hello(_) => Ok(Answer::Hello(Hello { version: VERSION, features: Vec::new() })),
        Request::CreateSwitch { definition, force } => create_switch(registry, *definition, force),
        Request::SetSwitch { switch, change } => set_switch(registry, &switch, change),
        Request::DeleteSwitch { switch } => delete_switch(registry, &switch),
        Request::Switches => {
            Ok(Answer::Switches(registry.switches.values().map(|switch| status(registry, switch)).collect()))
        }
        Request::CreatePort { switch, settings } => create_port(registry, &switch, *settings),
        Request::SetPort { port, settings } => set_port(registry, &port, *settings),
        Request::DeletePort { port } => {
            let id = find_port(registry, &port)?;
            registry.remove_port(id).map_err(failed)?;
            Ok(Answer::Done)
        }
        Request::Ports { switch, after } => ports(registry, switch.as_deref(), after),
        Request::Addresses { switch, skip } => addresses(registry, &switch, skip),
        Request::Capture { port, snap } => {
            let id = find_port(registry, &port)?;
            capture(registry, id, snap, files)?;
            captures.push(id);
            Ok(Answer::Done)
        }
        Request::StopCapture { port } => {
            let id = find_port(registry, &port)?;
            stop_capture(registry, id);
            captures.retain(|&other| other != id);
            Ok(Answer::Done)
        }
    }
}

fn find_switch(registry: &Registry, name: &str) -> Result<SwitchId, Problem> {
    let found = registry
        .switches
        .values()
        .find(|switch| switch.definition.name == name || switch.definition.id.to_string() == name);
    let found = found.map(|switch| switch.definition.id);
    found.ok_or_else(|| problem(ProblemKind::NotFound, format!("there is no virtual switch {name:?}")))
}

fn find_port(registry: &Registry, name: &str) -> Result<PortId, Problem> {
    if let Some(id) = name.parse().ok().filter(|id| registry.ports.contains_key(id)) {
        return Ok(id);
    }
    let mut named = registry.ports.values().filter(|port| port.record.settings.name == name);
    match (named.next(), named.next()) {
        (Some(port), None) => Ok(port.record.id),
        (Some(_), Some(_)) => {
            Err(problem(ProblemKind::WrongState, format!("several ports are called {name:?}: use their ids")))
        }
        (None, _) => Err(problem(ProblemKind::NotFound, format!("there is no port {name:?}"))),
    }
}

/// Refuses a name or a NIC that another switch has.
fn check_unique(registry: &Registry, definition: &SwitchDefinition) -> Result<(), Problem> {
    for other in registry.switches.values().map(|switch| &switch.definition).filter(|other| other.id != definition.id) {
        if other.name == definition.name {
            return Err(problem(
                ProblemKind::WrongState,
                format!("there is a virtual switch {:?} already", other.name),
            ));
        }
        let (Some(ours), Some(theirs)) = (&definition.uplink, &other.uplink) else { continue };
        if let Some(nic) = ours.interfaces.iter().find(|nic| theirs.interfaces.contains(nic)) {
            let message =
                format!("{nic} belongs to the virtual switch {:?}: a NIC belongs to one switch only", other.name);
            return Err(problem(ProblemKind::WrongState, message));
        }
    }
    Ok(())
}

fn create_switch(registry: &mut Registry, mut definition: SwitchDefinition, force: bool) -> Answered {
    definition.check().map_err(invalid)?;
    if registry.switches.contains_key(&definition.id) {
        return Err(problem(ProblemKind::WrongState, "there is a switch with this id already"));
    }
    check_unique(registry, &definition)?;
    if definition.kind == SwitchKind::External && definition.host.is_some() && !force {
        let message =
            "sharing a NIC with the host moves its addresses, which may cut your own connection: repeat with force";
        return Err(problem(ProblemKind::Refused, message));
    }
    uplink::name_host_interface(&mut definition);
    registry.store.write_definition(&definition).map_err(failed)?;
    let id = definition.id;
    registry.add_switch(definition).map_err(failed)?;
    let Some(switch) = registry.switches.get(&id) else { return Err(failed("the switch is gone")) };
    let result = match switch.problems.is_empty() {
        true => move_to_host_port(registry, id),
        false => Err(failed(switch.problems.join("; "))),
    };
    let Err(cause) = result else { return Ok(Answer::Done) };
    // A switch that never worked is no use: say why, and leave nothing behind.
    if let Some(switch) = registry.switches.remove(&id) {
        let definition = switch.definition.clone();
        drop(switch);
        if let Some(host) = &definition.host {
            let interface = uplink::host_interface(&definition, host);
            registry.helper.ask(&HelperRequest::Remove { interface }).map_err(failed)?;
        }
    }
    registry.store.remove_definition(id).map_err(failed)?;
    Err(problem(cause.kind, format!("cannot make the switch: {}", cause.message)))
}

/// The host's addresses go from the NIC of a shared external switch to the host's port.
fn move_to_host_port(registry: &Registry, id: SwitchId) -> Result<(), Problem> {
    let Some(switch) = registry.switches.get(&id) else { return Ok(()) };
    let (Some(uplink), Some(host)) = (&switch.definition.uplink, &switch.definition.host) else { return Ok(()) };
    let Some(from) = uplink.interfaces.first().cloned() else { return Ok(()) };
    let to = uplink::host_interface(&switch.definition, host);
    registry.helper.ask(&HelperRequest::MoveAddresses { from, to }).map_err(failed)?;
    Ok(())
}

fn set_switch(registry: &mut Registry, name: &str, change: SwitchChange) -> Answered {
    let id = find_switch(registry, name)?;
    let Some(switch) = registry.switches.get(&id) else { return Err(failed("the switch is gone")) };
    let mut definition = switch.definition.clone();
    definition.name = change.name.unwrap_or(definition.name);
    definition.description = change.description.unwrap_or(definition.description);
    definition.mtu = change.mtu.unwrap_or(definition.mtu);
    if let Some(bandwidth) = change.bandwidth {
        definition.bandwidth = (bandwidth > 0).then_some(bandwidth);
    }
    if let Some(vlan) = change.host_vlan {
        definition.host.as_mut().ok_or_else(|| invalid("the switch has no port of the host"))?.vlan = vlan;
    }
    let was_shared = definition.host.is_some();
    if let Some(share) = change.share.filter(|&share| share != was_shared) {
        if definition.kind != SwitchKind::External {
            return Err(invalid("only an external switch is shared with the host, or not"));
        }
        if !change.force {
            let message = "this moves the host's addresses, which may cut your own connection: repeat with force";
            return Err(problem(ProblemKind::Refused, message));
        }
        definition.host = share.then(HostPort::default);
        uplink::name_host_interface(&mut definition);
    }
    definition.check().map_err(invalid)?;
    check_unique(registry, &definition)?;
    // Ports whose minimum would exceed the bandwidth, and the like.
    for port in registry.ports.values().filter(|port| port.record.switch == id) {
        policy::of_guest(&port.record.settings, &definition)
            .map_err(|message| invalid(format!("port {}: {message}", port.record.settings.name)))?;
    }
    registry.store.write_definition(&definition).map_err(failed)?;
    apply_definition(registry, id, definition, was_shared)
}

/// Brings the data plane in line with a changed definition.
fn apply_definition(registry: &mut Registry, id: SwitchId, definition: SwitchDefinition, was_shared: bool) -> Answered {
    let Some(switch) = registry.switches.get_mut(&id) else { return Err(failed("the switch is gone")) };
    let before = std::mem::replace(&mut switch.definition, definition);
    let definition = &switch.definition;
    let mtu = definition.mtu;
    let (host, uplink) = (policy::of_host(definition), policy::of_uplink(definition));
    let (mut host_place, uplink_place) = (switch.host, switch.uplink);
    let shared = definition.host.is_some();
    if was_shared
        && !shared
        && let (Some(nic), Some(host)) = (&before.uplink, &before.host)
    {
        // Addresses first: they would go down with the interface.
        let interface = uplink::host_interface(&before, host);
        let to = nic.interfaces.first().cloned().unwrap_or_default();
        registry.helper.ask(&HelperRequest::MoveAddresses { from: interface.clone(), to }).map_err(failed)?;
        let place = host_place.take();
        switch.plane.call(move |plane| place.map(|place| plane.remove_port(place)));
        registry.helper.ask(&HelperRequest::Remove { interface }).map_err(failed)?;
    }
    let applied = switch.plane.call(move |plane| -> Result<Option<core::PortId>, core::PolicyError> {
        plane.switch.set_mtu(mtu);
        if let Some(place) = uplink_place {
            plane.set_port(place, uplink)?;
        }
        match (host_place, shared) {
            (Some(place), true) => plane.set_port(place, host).map(|()| Some(place)),
            (None, true) => plane.add_port(host).map(Some),
            (_, false) => Ok(None),
        }
    });
    switch.host = applied.ok_or_else(|| failed("the data plane is gone"))?.map_err(invalid_policy)?;
    switch.connect(&registry.helper);
    if shared
        && !was_shared
        && let Err(cause) = move_to_host_port(registry, id)
    {
        take_back(registry, id, before)?;
        return Err(cause);
    }
    let Some(switch) = registry.switches.get(&id) else { return Err(failed("the switch is gone")) };
    for port in registry.ports.values().filter(|port| port.record.switch == id) {
        refresh(port, switch)?;
    }
    Ok(Answer::Done)
}

/// Sharing did not work: the switch is again what it was, without a port of the host.
fn take_back(registry: &mut Registry, id: SwitchId, before: SwitchDefinition) -> Result<(), Problem> {
    registry.store.write_definition(&before).map_err(failed)?;
    let Some(switch) = registry.switches.get_mut(&id) else { return Ok(()) };
    let tried = std::mem::replace(&mut switch.definition, before);
    let place = switch.host.take();
    switch.plane.call(move |plane| place.map(|place| plane.remove_port(place)));
    if let Some(host) = &tried.host {
        let interface = uplink::host_interface(&tried, host);
        registry.helper.ask(&HelperRequest::Remove { interface }).map_err(failed)?;
    }
    Ok(())
}

fn invalid_policy(error: core::PolicyError) -> Problem {
    invalid(error.to_string())
}

/// Gives the data plane a port's settings, and tells its owner.
fn refresh(port: &Port, switch: &VirtualSwitch) -> Result<(), Problem> {
    let policy = policy::of_guest(&port.record.settings, &switch.definition).map_err(invalid)?;
    let place = port.place;
    let set = switch.plane.call(move |plane| plane.set_port(place, policy));
    set.ok_or_else(|| failed("the data plane is gone"))?.map_err(invalid_policy)?;
    if let Some((_, socket)) = &port.attached {
        // If it is gone, its connection says so in a moment.
        let _ = port::tell(socket, &port.info(&switch.definition));
    }
    Ok(())
}

fn delete_switch(registry: &mut Registry, name: &str) -> Answered {
    let id = find_switch(registry, name)?;
    let ports: Vec<_> = registry.ports.values().filter(|port| port.record.switch == id).collect();
    if let Some(port) = ports.iter().find(|port| port.attached.is_some() || !port.record.settings.ephemeral) {
        let message = format!("port {:?} is on the switch: remove its ports first", port.record.settings.name);
        return Err(problem(ProblemKind::WrongState, message));
    }
    let ids: Vec<_> = ports.iter().map(|port| port.record.id).collect();
    for port in ids {
        registry.remove_port(port).map_err(failed)?;
    }
    let Some(switch) = registry.switches.remove(&id) else { return Ok(Answer::Done) };
    registry.store.remove_definition(id).map_err(failed)?;
    let definition = switch.definition.clone();
    // Its descriptors close with it.
    drop(switch);
    if let Some(host) = &definition.host {
        let interface = uplink::host_interface(&definition, host);
        if let Some(to) = definition.uplink.as_ref().and_then(|uplink| uplink.interfaces.first().cloned()) {
            registry.helper.ask(&HelperRequest::MoveAddresses { from: interface.clone(), to }).map_err(failed)?;
        }
        registry.helper.ask(&HelperRequest::Remove { interface }).map_err(failed)?;
    }
    Ok(Answer::Done)
}

fn create_port(registry: &mut Registry, switch: &str, mut settings: PortSettings) -> Answered {
    let id = find_switch(registry, switch)?;
    settings.check().map_err(invalid)?;
    settings.mac = Some(choose_mac(registry, &settings, None)?.to_string());
    let ticket = new_ticket().map_err(failed)?;
    let record = PortRecord { id: PortId::new(), switch: id, ticket: ticket.clone(), settings };
    let (port, mac) = (record.id, record.settings.mac.clone().unwrap_or_default());
    registry.add_port(record.clone()).map_err(|error| invalid(format!("{error:#}")))?;
    if let Err(error) = registry.store.write_port(&record) {
        registry.remove_port(port).map_err(failed)?;
        return Err(failed(error));
    }
    Ok(Answer::Port { id: port, ticket, mac })
}

/// The address of a port: the one asked for if nobody has it, else one of the host's.
fn choose_mac(registry: &Registry, settings: &PortSettings, own: Option<PortId>) -> Result<MacAddress, Problem> {
    let mut taken = registry.addresses();
    if let Some(mac) = own.and_then(|id| registry.ports.get(&id)?.record.settings.mac.as_ref()?.parse().ok()) {
        taken.remove(&mac);
    }
    let Some(text) = &settings.mac else {
        return registry.macs.free(&taken).map_err(|error| problem(ProblemKind::Unavailable, error.to_string()));
    };
    let mac: MacAddress = text.parse().map_err(|error| invalid(format!("{error}")))?;
    match taken.get(&mac) {
        Some(holder) if !settings.mac_spoofing => {
            let message = format!("{mac} is the address of port {holder:?}: choose another, or none");
            Err(problem(ProblemKind::WrongState, message))
        }
        _ => Ok(mac),
    }
}

fn set_port(registry: &mut Registry, name: &str, mut settings: PortSettings) -> Answered {
    let id = find_port(registry, name)?;
    settings.check().map_err(invalid)?;
    let old = registry.ports.get(&id).map(|port| port.record.settings.clone()).unwrap_or_default();
    settings.ephemeral = old.ephemeral;
    settings.mac = settings.mac.or_else(|| old.mac.clone());
    settings.mac = Some(choose_mac(registry, &settings, Some(id))?.to_string());
    let Some(port) = registry.ports.get_mut(&id) else { return Err(failed("the port is gone")) };
    let Some(switch) = registry.switches.get(&port.record.switch) else { return Err(failed("the switch is gone")) };
    port.record.settings = settings;
    if let Err(problem) = refresh(port, switch) {
        port.record.settings = old;
        return Err(problem);
    }
    registry.store.write_port(&port.record).map_err(failed)?;
    Ok(Answer::Done)
}

fn status(registry: &Registry, switch: &VirtualSwitch) -> SwitchStatus {
    let id = switch.definition.id;
    let guests = registry.ports.values().filter(|port| port.record.switch == id).count();
    let uplink = switch.uplink;
    let (addresses, active_uplink) = switch
        .plane
        .call(move |plane| (plane.switch.addresses().len(), uplink.and_then(|place| plane.active_interface(place))))
        .unwrap_or_default();
    SwitchStatus {
        definition: switch.definition.clone(),
        ports: guests + usize::from(switch.uplink.is_some()) + usize::from(switch.host.is_some()),
        addresses,
        active_uplink,
        problems: switch.problems.clone(),
    }
}

fn ports(registry: &Registry, switch: Option<&str>, after: Option<PortId>) -> Answered {
    let only = switch.map(|name| find_switch(registry, name)).transpose()?;
    let wanted = |id: SwitchId| only.is_none_or(|only| only == id);
    let mut ports = Vec::new();
    // Uplinks and host ports have no ids: they are on the first page.
    for switch in registry.switches.values().filter(|switch| after.is_none() && wanted(switch.definition.id)) {
        for (place, name) in [(switch.uplink, "uplink"), (switch.host, "host")] {
            let settings = PortSettings { name: name.into(), ..PortSettings::default() };
            ports.extend(place.and_then(|place| port_status(switch, place, None, settings)));
        }
    }
    let mut more = false;
    let all = registry.ports.values().filter(|port| wanted(port.record.switch));
    for port in all.filter(|port| after.is_none_or(|after| port.record.id > after)) {
        if ports.len() >= PAGE {
            more = true;
            break;
        }
        let Some(switch) = registry.switches.get(&port.record.switch) else { continue };
        ports.extend(port_status(switch, port.place, Some(port.record.id), port.record.settings.clone()));
    }
    Ok(Answer::Ports { ports, more })
}

fn port_status(
    switch: &VirtualSwitch,
    place: core::PortId,
    id: Option<PortId>,
    settings: PortSettings,
) -> Option<PortStatus> {
    let (policy, counters, attached) = switch.plane.call(move |plane| {
        Some((plane.switch.policy(place)?.clone(), *plane.switch.counters(place)?, plane.is_attached(place)))
    })??;
    let drops = core::DropReason::ALL.into_iter().map(|reason| (reason.name().to_owned(), counters.drops(reason)));
    Some(PortStatus {
        id,
        switch: switch.definition.id,
        kind: policy::kind(&policy).into(),
        settings,
        attached,
        sent: Traffic { frames: counters.sent_frames, bytes: counters.sent_bytes },
        received: Traffic { frames: counters.received_frames, bytes: counters.received_bytes },
        drops: drops.filter(|&(_, count)| count > 0).collect(),
    })
}

fn addresses(registry: &Registry, switch: &str, skip: usize) -> Answered {
    let id = find_switch(registry, switch)?;
    let Some(switch) = registry.switches.get(&id) else { return Err(failed("the switch is gone")) };
    let all = switch.plane.call(|plane| plane.switch.addresses().iter().collect::<Vec<_>>());
    let mut all = all.ok_or_else(|| failed("the data plane is gone"))?;
    all.sort_by_key(|&(vlan, mac, port, _)| (vlan, mac, port));
    let more = all.len() > skip + PAGE_OF_ADDRESSES;
    let page = all.into_iter().skip(skip).take(PAGE_OF_ADDRESSES);
    let named = page.map(|(vlan, mac, place, own)| {
        let name = match registry.port_at(id, place) {
            Some(port) => port.record.settings.name.clone(),
            None if switch.uplink == Some(place) => "uplink".into(),
            None => "host".into(),
        };
        Address { vlan, mac: mac.to_string(), port: name, own }
    });
    Ok(Answer::Addresses { addresses: named.collect(), more })
}

fn capture(registry: &Registry, id: PortId, snap: u32, files: Vec<OwnedFd>) -> Result<(), Problem> {
    let file = files.into_iter().next().ok_or_else(|| invalid("a capture without a file to write to"))?;
    let Some(port) = registry.ports.get(&id) else { return Err(failed("the port is gone")) };
    let queue = capture_writer::start(file, &port.record.settings.name, snap.clamp(64, 262_144)).map_err(failed)?;
    let place = port.place;
    if let Some(switch) = registry.switches.get(&port.record.switch) {
        switch.plane.call(move |plane| plane.capture(place, Some((queue, snap))));
    }
    Ok(())
}

/// Ends a capture.
pub fn stop_capture(registry: &Registry, id: PortId) {
    let Some(port) = registry.ports.get(&id) else { return };
    let place = port.place;
    if let Some(switch) = registry.switches.get(&port.record.switch) {
        switch.plane.call(move |plane| plane.capture(place, None));
    }
}

//! All switches and ports of the host, with their data planes.

use crate::helper::Helper;
use crate::mac_pool::MacPool;
use crate::plane::{News, NewsDesk, Plane, now};
use crate::ports::{EPHEMERAL_SECONDS, Port};
use crate::store::{PortRecord, Store};
use crate::{policy, uplink};
use anyhow::{Context, Result, anyhow};
use bulkhead_ids::{PortId, SwitchId};
use bulkhead_packets::MacAddress;
use bulkhead_switch_core as core;
use bulkhead_switch_protocol::{SwitchDefinition, paths};
use std::collections::BTreeMap;
use std::path::Path;

/// A virtual switch.
pub struct VirtualSwitch {
    /// What it was told to be.
    pub definition: SwitchDefinition,
    /// Its data plane.
    pub plane: Plane,
    /// The place of its uplink.
    pub uplink: Option<core::PortId>,
    /// The place of the host's port.
    pub host: Option<core::PortId>,
    /// What does not work.
    pub problems: Vec<String>,
}

/// Everything.
pub struct Registry {
    pub store: Store,
    pub helper: Helper,
    pub macs: MacPool,
    pub desk: NewsDesk,
    pub switches: BTreeMap<SwitchId, VirtualSwitch>,
    pub ports: BTreeMap<PortId, Port>,
}

impl Registry {
    /// Reads what is there and brings it to life. What does not work is noted and tried again later.
    ///
    /// # Errors
    /// The folders below `root` cannot be made.
    pub fn open(root: &Path, desk: NewsDesk) -> Result<Registry> {
        let store = Store::open(root)?;
        let identity = std::fs::read("/etc/machine-id").unwrap_or_default();
        let identity = [identity, root.as_os_str().as_encoded_bytes().to_vec()].concat();
        let (helper, macs) = (Helper(paths::helper_socket(root)), MacPool::of_host(&identity));
        let mut registry = Registry { store, helper, macs, desk, switches: BTreeMap::new(), ports: BTreeMap::new() };
        let (definitions, wrong) = registry.store.definitions();
        for definition in definitions {
            let name = definition.name.clone();
            if let Err(error) = registry.add_switch(definition) {
                tracing::error!("switch {name}: {error:#}");
            }
        }
        let (records, wrong_ports) = registry.store.ports();
        for record in records {
            let name = record.settings.name.clone();
            if let Err(error) = registry.add_port(record) {
                tracing::error!("port {name}: {error:#}");
            }
        }
        wrong.iter().chain(&wrong_ports).for_each(|wrong| tracing::error!("left out: {wrong}"));
        Ok(registry)
    }

    /// Makes the data plane of a switch. Interfaces that cannot be opened are problems of it, not errors.
    ///
    /// # Errors
    /// Out of threads or descriptors.
    pub fn add_switch(&mut self, definition: SwitchDefinition) -> Result<()> {
        let plane = Plane::start(&definition.name, definition.mtu, self.desk.clone())?;
        let mut switch = VirtualSwitch { definition, plane, uplink: None, host: None, problems: Vec::new() };
        let add = |switch: &VirtualSwitch, policy: core::Policy| -> Result<core::PortId> {
            Ok(switch.plane.call(move |plane| plane.add_port(policy)).context("the data plane is gone")??)
        };
        if switch.definition.uplink.is_some() {
            switch.uplink = Some(add(&switch, policy::of_uplink(&switch.definition))?);
        }
        if switch.definition.host.is_some() {
            switch.host = Some(add(&switch, policy::of_host(&switch.definition))?);
        }
        switch.connect(&self.helper);
        self.switches.insert(switch.definition.id, switch);
        Ok(())
    }

    /// Adds a port to the data plane of its switch.
    ///
    /// # Errors
    /// The settings cannot be, or there is no such switch.
    pub fn add_port(&mut self, record: PortRecord) -> Result<()> {
        let switch = self.switches.get(&record.switch).context("its switch does not exist")?;
        let policy = policy::of_guest(&record.settings, &switch.definition).map_err(|message| anyhow!(message))?;
        let place = switch.plane.call(move |plane| plane.add_port(policy)).context("the data plane is gone")??;
        let port = Port { place, attached: None, last_attached: now(), record };
        self.ports.insert(port.record.id, port);
        Ok(())
    }

    /// Removes a port, and its record.
    ///
    /// # Errors
    /// The record cannot be removed; the port is gone all the same.
    pub fn remove_port(&mut self, id: PortId) -> Result<()> {
        let Some(port) = self.ports.remove(&id) else { return Ok(()) };
        if let Some(switch) = self.switches.get(&port.record.switch) {
            switch.plane.call(move |plane| plane.remove_port(port.place));
        }
        self.store.remove_port(id)
    }

    /// Every address that a port has, with the name of its holder.
    pub fn addresses(&self) -> BTreeMap<MacAddress, String> {
        let named = self.ports.values().filter_map(|port| {
            let mac = port.record.settings.mac.as_ref()?.parse().ok()?;
            Some((mac, port.record.settings.name.clone()))
        });
        named.collect()
    }

    /// The port at a place of a switch's data plane.
    pub fn port_at(&self, switch: SwitchId, place: core::PortId) -> Option<&Port> {
        self.ports.values().find(|port| port.record.switch == switch && port.place == place)
    }

    /// The port with a ticket.
    pub fn port_of_ticket(&self, ticket: &str) -> Option<PortId> {
        self.ports.values().find(|port| port.record.ticket == ticket).map(|port| port.record.id)
    }

    /// Logs what data planes told.
    pub fn note(&self, news: &News) {
        match news {
            News::Detached { port, why } => tracing::info!(port = port.0, "detached: {why}"),
            News::Failover { port, active } => tracing::warn!(port = port.0, "the team now uses {active:?}"),
        }
    }

    /// Does what is due: opens interfaces that could not be opened, and removes ports that nobody needs. Whether there is something
    /// to look at again.
    pub fn tend(&mut self) -> bool {
        let helper = &self.helper;
        self.switches
            .values_mut()
            .filter(|switch| !switch.problems.is_empty())
            .for_each(|switch| switch.connect(helper));
        let ephemeral = |port: &&Port| port.record.settings.ephemeral && port.attached.is_none();
        let old = now().saturating_sub(EPHEMERAL_SECONDS * 1_000_000_000);
        let expired: Vec<_> = self
            .ports
            .values()
            .filter(ephemeral)
            .filter(|port| port.last_attached < old)
            .map(|port| port.record.id)
            .collect();
        for id in expired {
            if let Err(error) = self.remove_port(id) {
                tracing::error!("{error:#}");
            }
        }
        self.ports.values().any(|port| ephemeral(&port))
            || self.switches.values().any(|switch| !switch.problems.is_empty())
    }
}

impl VirtualSwitch {
    /// Opens the interfaces of the host that are not attached.
    pub fn connect(&mut self, helper: &Helper) {
        self.problems.clear();
        let attached = |place: core::PortId| self.plane.call(move |plane| plane.is_attached(place)).unwrap_or(true);
        let mut opened = Vec::new();
        let mut problems = Vec::new();
        if let Some(place) = self.uplink.filter(|&place| !attached(place)) {
            match uplink::open(&self.definition, helper) {
                Ok(uplink) => opened.extend(uplink.map(|uplink| (place, uplink))),
                Err(error) => problems.push(format!("the uplink: {error:#}")),
            }
        }
        if let (Some(place), Some(host)) = (self.host.filter(|&place| !attached(place)), &self.definition.host) {
            match uplink::open_host(&self.definition, host, helper) {
                Ok(uplink) => opened.push((place, uplink)),
                Err(error) => problems.push(format!("the host's port: {error:#}")),
            }
        }
        for (place, uplink) in opened {
            let attached = self.plane.call(move |plane| plane.attach_wire(place, uplink));
            if let Some(Err(error)) = attached {
                problems.push(format!("an interface of the host: {error}"));
            }
        }
        problems.iter().for_each(|problem| tracing::warn!("switch {}: {problem}", self.definition.name));
        self.problems = problems;
    }
}

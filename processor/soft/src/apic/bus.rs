//! Between the local APICs: messages to one, several or all of them.

use super::LocalApic;
use crate::shared::{self, PartitionShared, request};
use bulkhead_engine::Msi;
use bulkhead_reactor::Time;
use std::sync::atomic::Ordering;

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Physical(u32),
    Logical(u32),
    OnlySelf(usize),
    All,
    AllBut(usize),
}

const FIXED: u8 = 0;
const LOWEST_PRIORITY: u8 = 1;
const NMI: u8 = 4;
const INIT: u8 = 5;
const STARTUP: u8 = 6;
const EXT_INT: u8 = 7;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    destination: Destination,
    mode: u8,
    vector: u8,
    level: bool,
}

impl PartitionShared {
    /// A message-signalled interrupt.
    pub fn deliver_msi(&self, msi: Msi) {
        let id = (msi.address >> 12 & 0xff) as u32;
        let logical = msi.address & 4 != 0;
        let message = Message {
            destination: if logical { Destination::Logical(id) } else { Destination::Physical(id) },
            mode: (msi.data >> 8 & 7) as u8,
            vector: msi.data as u8,
            level: msi.data & 1 << 15 != 0,
        };
        self.deliver(message);
    }

    /// An interprocessor interrupt that VP `from` wrote into its ICR.
    pub fn send_ipi(&self, from: usize, icr: u64, x2apic: bool) {
        let id = if x2apic { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        let logical = icr & 1 << 11 != 0;
        let destination = match icr >> 18 & 3 {
            1 => Destination::OnlySelf(from),
            2 => Destination::All,
            3 => Destination::AllBut(from),
            _ if logical => Destination::Logical(id),
            _ => Destination::Physical(id),
        };
        let mode = (icr >> 8 & 7) as u8;
        let assert = icr & 1 << 14 != 0;
        let level_triggered = icr & 1 << 15 != 0;
        if mode == INIT && level_triggered && !assert {
            // INIT level de-assert only synchronized arbitration ids of old processors.
            return;
        }
        self.deliver(Message { destination, mode, vector: icr as u8, level: false });
    }

    fn deliver(&self, message: Message) {
        let is_target = |index: usize, apic: &LocalApic| match message.destination {
            Destination::Physical(id) => apic.matches_physical(id),
            Destination::Logical(id) => apic.matches_logical(id),
            Destination::OnlySelf(from) => index == from,
            Destination::All => true,
            Destination::AllBut(from) => index != from,
        };
        if message.mode == LOWEST_PRIORITY {
            let candidates = self.vps.iter().enumerate().filter_map(|(index, vp)| {
                let apic = vp.apic.lock();
                (apic.is_active() && is_target(index, &apic)).then(|| (apic.arbitration_priority(), index))
            });
            if let Some((_, index)) = candidates.min() {
                self.receive(index, message);
            }
            return;
        }
        for (index, vp) in self.vps.iter().enumerate() {
            if is_target(index, &vp.apic.lock()) {
                self.receive(index, message);
            }
        }
    }

    fn receive(&self, index: usize, message: Message) {
        let vp = &self.vps[index];
        match message.mode {
            FIXED | LOWEST_PRIORITY => vp.apic.lock().receive(message.vector, message.level),
            NMI => vp.nmi.store(true, Ordering::SeqCst),
            INIT => vp.start.store(shared::INIT, Ordering::SeqCst),
            STARTUP => {
                let vector = u32::from(message.vector) + 1;
                let next = |start| Some(start & shared::INIT | vector);
                let _ = vp.start.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
            }
            // As an edge on LINT0 would be; the PIC's own line is `ext_int`.
            EXT_INT => self.ext_int.store(true, Ordering::SeqCst),
            _ => return,
        }
        vp.request(request::INTERRUPT);
    }

    /// Sets the host timer of VP `index` to what its local APIC wants; fires at once what is due.
    pub fn arm_apic_timer(&self, index: usize) {
        let vp = &self.vps[index];
        let mut apic = vp.apic.lock();
        let now = self.reactor.now().as_nanos();
        if apic.timer_expired(now, self.tsc_hz) {
            vp.request(request::INTERRUPT);
        }
        let Some(timer) = vp.timer.get() else { return };
        match apic.timer_deadline(self.tsc_hz) {
            Some(deadline) => timer.set(Time::from_nanos(deadline)),
            None => timer.cancel(),
        }
    }
}

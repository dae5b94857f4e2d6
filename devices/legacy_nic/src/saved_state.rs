//! The saved form of the adapter. Frames in the port are not part of it: they are lost, as on a wire.

use crate::adapter::State;
use crate::filter::Filter;
use crate::mii::Mii;
use crate::regs::{COUNT, STATUS, status};
use crate::srom::SerialRom;
use bulkhead_device::SavedConfigSpace;
use bulkhead_reactor::Time;
use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "legacy-nic";
pub(crate) const VERSION: u32 = 1;

/// No frame that is being gathered is longer.
const LONGEST: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedLegacyNic {
    #[n(0)]
    pub config: SavedConfigSpace,
    #[n(1)]
    registers: [u32; COUNT],
    #[n(2)]
    transmit_at: u32,
    #[n(3)]
    receive_at: u32,
    #[n(4)]
    filter: Filter,
    #[n(5)]
    rom: SerialRom,
    #[n(6)]
    mii: Mii,
    #[cbor(n(7), with = "minicbor::bytes")]
    partial: Option<Vec<u8>>,
    /// Nanoseconds of VM time.
    #[n(8)]
    timer_at: Option<u64>,
}

impl SavedLegacyNic {
    pub fn of(state: &State, config: SavedConfigSpace) -> SavedLegacyNic {
        SavedLegacyNic {
            config,
            registers: state.registers,
            transmit_at: state.transmit_at,
            receive_at: state.receive_at,
            filter: state.filter.clone(),
            rom: state.rom,
            mii: state.mii,
            partial: state.partial.clone(),
            timer_at: state.timer_at.map(Time::as_nanos),
        }
    }

    /// `None` when no adapter can be in this state.
    pub fn restored(self) -> Option<State> {
        let partial = self.partial.filter(|frame| frame.len() <= LONGEST);
        let mut registers = self.registers;
        let known = |field: u32, values: &[u32]| values.contains(&(registers[STATUS] & field));
        let receiver = known(status::RECEIVER, &[0, status::RECEIVER_WAITS, status::RECEIVER_SUSPENDED]);
        let transmitter = known(status::TRANSMITTER, &[0, status::TRANSMITTER_RUNS, status::TRANSMITTER_SUSPENDED]);
        if !receiver || !transmitter {
            return None;
        }
        registers[STATUS] |= 0xf000_0000;
        Some(State {
            registers,
            transmit_at: self.transmit_at & !3,
            receive_at: self.receive_at & !3,
            filter: self.filter,
            rom: self.rom.checked()?,
            mii: self.mii.checked()?,
            partial,
            timer_at: self.timer_at.map(Time::from_nanos),
        })
    }
}

//! The saved form: the driver's session and the units. Requests are never in flight here: a paused controller has waited.

use crate::Controller;
use crate::controller::Session;
use bulkhead_scsi_target::SavedUnit;
use minicbor::{Decode, Encode};

pub(crate) const KIND: &str = "vmbus_storage";
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SavedController {
    #[n(0)]
    begun: bool,
    #[n(1)]
    version: u16,
    #[n(2)]
    ready: bool,
    #[n(3)]
    units: Vec<(u8, SavedUnit)>,
    /// The guest has not been told of units that came or went.
    #[n(4)]
    enumerate: bool,
}

impl SavedController {
    pub fn of(controller: &Controller) -> SavedController {
        let Session { begun, version, ready } = controller.session;
        let units = controller.luns.iter().map(|(number, lun)| (*number, lun.unit.save()));
        SavedController { begun, version, ready, units: units.collect(), enumerate: controller.enumerate }
    }

    pub fn apply(&self, controller: &mut Controller) {
        controller.session = Session { begun: self.begun, version: self.version, ready: self.ready };
        // Units that the description has and the saved state has not, or the other way round, are changes to tell.
        let same = self.units.iter().map(|(number, _)| *number).eq(controller.luns.keys().copied());
        controller.enumerate = self.enumerate || !same;
        for (number, saved) in &self.units {
            if let Some(lun) = controller.luns.get_mut(number) {
                lun.unit =
                    bulkhead_scsi_target::LogicalUnit::restored(lun.unit.kind(), lun.unit.identity().clone(), saved);
            }
        }
    }
}

//! Fuzz target: packets and definitions from anybody.
#![doc(hidden)]

use crate::{FromSwitch, HelperRequest, PortSettings, Request, SwitchDefinition, ToSwitch, VlanList};

/// Reads `data` as everything that is read.
pub fn fuzz(data: &[u8]) {
    if let Ok(ToSwitch { request, .. }) = serde_json::from_slice(data) {
        match request {
            Request::CreateSwitch { definition, .. } => drop(definition.check()),
            Request::CreatePort { settings, .. } | Request::SetPort { settings, .. } => drop(settings.check()),
            _ => {}
        }
    }
    let _ = serde_json::from_slice::<FromSwitch>(data);
    let _ = serde_json::from_slice::<HelperRequest>(data).map(|request| request.check());
    let _ = serde_json::from_slice::<PortSettings>(data).map(|settings| settings.check());
    let _ = serde_json::from_slice::<SwitchDefinition>(data).map(|definition| definition.check());
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(list) = text.parse::<VlanList>()
    {
        assert_eq!(list.to_string().parse(), Ok(list.clone()), "what is written is read back");
        assert!(list.iter().all(|vlan| (1..=4094).contains(&vlan)));
    }
}

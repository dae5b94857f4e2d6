//! Interface types of devices: what guests choose a driver by.

use uuid::{Uuid, uuid};

/// Network adapter.
pub const NETWORK: Uuid = uuid!("f8615163-df3e-46c5-913f-f2d2f965ed0e");
/// One disk of an IDE controller, on the fast path.
pub const IDE: Uuid = uuid!("32412632-86cb-44a2-9b5c-50d1417354f5");
/// SCSI controller.
pub const SCSI: Uuid = uuid!("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f");
/// Fibre channel adapter.
pub const FIBRE_CHANNEL: Uuid = uuid!("2f9bcc4a-0069-4af3-b76b-6fd0be528cda");
/// Integration service: shut down.
pub const SHUTDOWN: Uuid = uuid!("0e0b6031-5213-4934-818b-38d90ced39db");
/// Integration service: time synchronization.
pub const TIME_SYNC: Uuid = uuid!("9527e630-d0ae-497b-adce-e80ab0175caf");
/// Integration service: heartbeat.
pub const HEARTBEAT: Uuid = uuid!("57164f39-9115-4e78-ab55-382f3bd5422d");
/// Integration service: key/value pair exchange.
pub const KVP: Uuid = uuid!("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6");
/// Integration service: volume shadow copies.
pub const VSS: Uuid = uuid!("35fa2e29-ea23-4236-96ae-3a6ebacba440");
/// Integration service: file copy.
pub const FILE_COPY: Uuid = uuid!("34d14be3-dee4-41c8-9ae7-6b174977c192");
/// Dynamic memory.
pub const DYNAMIC_MEMORY: Uuid = uuid!("525074dc-8985-46e2-8057-a307dc18a502");
/// Keyboard.
pub const KEYBOARD: Uuid = uuid!("f912ad6d-2b17-48ea-bd65-f927a61c7684");
/// Mouse with absolute coordinates.
pub const MOUSE: Uuid = uuid!("cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a");
/// Synthetic video.
pub const VIDEO: Uuid = uuid!("da0a7802-e377-4aac-8e77-0558eb1073f8");
/// Instance of the only shutdown service.
pub const SHUTDOWN_INSTANCE: Uuid = uuid!("b6650ff7-33bc-4840-8048-e0676786f393");
/// Instance of the only time service.
pub const TIME_SYNC_INSTANCE: Uuid = uuid!("2dd1ce17-079e-403c-b352-a1921ee207ee");
/// Instance of the only key/value service.
pub const KVP_INSTANCE: Uuid = uuid!("242ff919-07db-4180-9c2e-b86cb68c8c55");
/// Instance of the only mouse.
pub const MOUSE_INSTANCE: Uuid = uuid!("58f75a6d-d949-4320-99e1-a2a2576d581c");
/// Instance of the only keyboard.
pub const KEYBOARD_INSTANCE: Uuid = uuid!("d34b2567-b9b6-42b9-8778-0a4ec0b955bf");
/// Instance of the only display.
pub const VIDEO_INSTANCE: Uuid = uuid!("5620e0c7-8062-4dce-aeb7-520c7ef76171");

//! What the guest has negotiated: version, buffers, filter. Pure: requests in, replies and changes out.

use bulkhead_packets::ETHERNET_HEADER;

use crate::nvsp::{Reply, Request, Status};
use crate::oid::{MAX_MTU, Objects};
use crate::rndis::{self, Control};

/// The newest version that we speak. 6 adds receive segment coalescing, of which we have nothing.
const NEWEST: u32 = 0x5_0000;
/// All versions, oldest first.
const VERSIONS: [u32; 4] = [2, 0x3_0002, 0x4_0000, NEWEST];
/// Versions that can have more than one channel.
const SUBCHANNELS_SINCE: u32 = 0x5_0000;

/// Protocol state of an adapter whose primary channel is open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Negotiated version; 0 before.
    pub version: u32,
    /// RNDIS is initialized: frames may flow.
    pub initialized: bool,
    /// Channels besides the primary.
    pub subchannels: u16,
}

/// What a request asks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this as the completion.
    Complete(Reply),
    /// Nothing but an empty completion, where one is asked for.
    Nothing,
    /// Look up the buffer and complete.
    ReceiveBuffer {
        /// Its GPADL.
        gpadl: u32,
        /// Its name.
        id: u16,
    },
    /// Forget the buffer.
    RevokeReceiveBuffer,
    /// Look up the buffer and complete.
    SendBuffer {
        /// Its GPADL.
        gpadl: u32,
    },
    /// Forget the buffer.
    RevokeSendBuffer,
    /// Read RNDIS messages.
    Rndis {
        /// Control messages.
        control: bool,
        /// Section that holds the first part.
        section: Option<u32>,
        /// Bytes in it.
        len: u32,
    },
    /// Make so many sub-channels, and complete.
    Subchannels {
        /// How many in all.
        count: u16,
    },
}

impl Session {
    /// Takes a request. `Err`: it breaks the protocol.
    pub fn request(&mut self, request: Request, objects: &mut Objects) -> Result<Action, &'static str> {
        if self.version == 0 && !matches!(request, Request::Init { .. }) {
            return Err("a message before the version was negotiated");
        }
        Ok(match request {
            Request::Init { min, max } => Action::Complete(self.negotiate(min, max)),
            Request::NdisVersion { .. } | Request::SwitchDataPath | Request::RndisComplete => Action::Nothing,
            Request::NdisConfig { max_frame, .. } => {
                objects.mtu = max_frame.saturating_sub(ETHERNET_HEADER as u32).min(MAX_MTU);
                Action::Nothing
            }
            Request::ReceiveBuffer { gpadl, id } => Action::ReceiveBuffer { gpadl, id },
            Request::RevokeReceiveBuffer => Action::RevokeReceiveBuffer,
            Request::SendBuffer { gpadl } => Action::SendBuffer { gpadl },
            Request::RevokeSendBuffer => Action::RevokeSendBuffer,
            Request::Rndis { control, section, len } => Action::Rndis { control, section, len },
            Request::Subchannels { count } => {
                let most = objects.max_channels.saturating_sub(1);
                if self.version < SUBCHANNELS_SINCE || most == 0 || count == 0 || self.subchannels > 0 {
                    return Ok(Action::Complete(Reply::SubchannelsComplete { status: Status::Failure, count: 0 }));
                }
                Action::Subchannels { count: count.min(most) as u16 }
            }
        })
    }

    fn negotiate(&mut self, min: u32, max: u32) -> Reply {
        let spoken = VERSIONS.iter().rev().find(|version| (min..=max).contains(version));
        if let Some(version) = spoken {
            self.version = *version;
            return Reply::InitComplete { version: *version, status: Status::Success };
        }
        let status = if min > NEWEST { Status::TooNew } else { Status::Failure };
        Reply::InitComplete { version: 0, status }
    }

    /// Takes a control message and says what to answer, if anything. `Err`: it breaks the protocol.
    pub fn control(&mut self, message: &[u8], objects: &mut Objects) -> Result<Option<Vec<u8>>, &'static str> {
        Ok(match Control::decode(message).ok_or("a malformed RNDIS message")? {
            Control::Init { request } => {
                self.initialized = true;
                Some(rndis::init_complete(request))
            }
            Control::Halt => {
                self.initialized = false;
                objects.filter = 0;
                None
            }
            Control::Query { request, oid } => Some(rndis::query_complete(request, objects.query(oid))),
            Control::Set { request, oid, value } => Some(rndis::set_complete(request, objects.set(oid, value))),
            Control::Reset => {
                objects.filter = 0;
                Some(rndis::reset_complete())
            }
            Control::KeepAlive { request } => Some(rndis::keepalive_complete(request)),
        })
    }
}

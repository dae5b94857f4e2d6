//! What packets of a socket carry: {u32 1, u32 length} and the data; length 0 is the end of the stream.

use uuid::Uuid;

/// Bytes in front of the data.
pub const HEADER: usize = 8;
/// Most data in a packet to the guest.
pub const MAX_DATA: usize = 16 << 10;
const DATA: u32 = 1;

/// Last fields of the service ids of ports: those of Linux's AF_VSOCK.
const PORTS: (u16, u16, [u8; 8]) = (0xfacb, 0x11e6, [0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79, 0x86, 0xd3]);

/// Why a packet cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short, or longer than the packet.
    #[error("a packet of {len} bytes claims {claimed:?} bytes of data")]
    Length {
        /// Bytes of the packet.
        len: usize,
        /// As its header says.
        claimed: Option<u32>,
    },
    /// Not data.
    #[error("a packet of type {kind} on a socket, where all are of type {DATA}")]
    Kind {
        /// Its type.
        kind: u32,
    },
}

/// The data of a packet; empty at the end of the stream.
///
/// # Errors
/// [`FrameError`].
pub fn data(packet: &[u8]) -> Result<&[u8], FrameError> {
    let len = packet.len();
    let Some((header, rest)) = packet.split_first_chunk::<HEADER>() else {
        return Err(FrameError::Length { len, claimed: None });
    };
    let [a, b, c, d, e, f, g, h] = *header;
    let (kind, claimed) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
    if kind != DATA {
        return Err(FrameError::Kind { kind });
    }
    rest.get(..claimed as usize).ok_or(FrameError::Length { len, claimed: Some(claimed) })
}

/// Writes the header of `len` bytes of data.
pub fn header(len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&DATA.to_le_bytes());
    header[4..].copy_from_slice(&(len as u32).to_le_bytes());
    header
}

/// The service id of a port.
pub fn service_id(port: u32) -> Uuid {
    Uuid::from_fields(port, PORTS.0, PORTS.1, &PORTS.2)
}

/// The port that a service id means.
pub fn port_of(service: Uuid) -> Option<u32> {
    let (port, second, third, last) = service.as_fields();
    ((second, third, *last) == PORTS).then_some(port)
}

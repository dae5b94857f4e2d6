//! Packet sockets: all frames of a network interface.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes of the kernel's offload header in front of each frame.
const OFFLOAD_HEADER: usize = 10;

/// Opens a socket that receives and sends all frames of the interface `name`, promiscuously, with the kernel's 10-byte offload
/// header in front of each. Frames that this host sends itself are not received. Non-blocking.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_RAW; `NotFound` if there is no such interface.
pub fn open_packet_socket(name: &str) -> io::Result<OwnedFd> {
    let index = interface_index(name)?;
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0: nothing is received before it is bound to its interface.
    // SAFETY: no memory is involved.
    let raw = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
        set_option(&socket, libc::SOL_PACKET, option, &1i32)?;
    }
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    // Room for bursts; the kernel's limit may be lower.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &(4i32 << 20))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a `sockaddr_ll` of that length.
    if unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

fn set_option<T: Copy>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, a plain structure of its own.
    if unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a packet socket received.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedFrame {
    /// Bytes in the buffer.
    pub len: usize,
    /// The offload header.
    pub offload: [u8; OFFLOAD_HEADER],
    /// The VLAN tag, which the kernel has taken out of the frame.
    pub vlan: Option<u16>,
}

/// Receives the next frame of a packet socket; `None` when there is none now, or it did not fit.
///
/// # Errors
/// `NetworkDown` and the like: the interface is down or gone.
pub fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<ReceivedFrame>> {
    let mut offload = [0u8; OFFLOAD_HEADER];
    // 64 bytes are more than the one message that the kernel sends along; the type keeps them aligned for its header.
    let mut control = MaybeUninit::<[u64; 8]>::uninit();
    let mut parts = [
        libc::iovec { iov_base: offload.as_mut_ptr().cast(), iov_len: OFFLOAD_HEADER },
        libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() },
    ];
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the parts and the control space live until after the call, with the lengths given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    if received < 0 {
        let error = io::Error::last_os_error();
        let nothing = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        return if nothing { Ok(None) } else { Err(error) };
    }
    let len = received as usize;
    if len < OFFLOAD_HEADER || message.msg_flags & libc::MSG_TRUNC != 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has filled the control space and set its length.
    let vlan = unsafe { vlan_tag(&message) };
    Ok(Some(ReceivedFrame { len: len - OFFLOAD_HEADER, offload, vlan }))
}

/// # Safety
/// `message` is what `recvmsg` left.
unsafe fn vlan_tag(message: &libc::msghdr) -> Option<u16> {
    // SAFETY: by the caller's promise the control messages are well-formed; each is read only if it is long enough.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            let is_auxdata = control.cmsg_level == libc::SOL_PACKET && control.cmsg_type == libc::PACKET_AUXDATA;
            if is_auxdata && control.cmsg_len >= libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as usize {
                let aux = libc::CMSG_DATA(control).cast::<libc::tpacket_auxdata>().read_unaligned();
                return (aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(aux.tp_vlan_tci);
            }
            header = libc::CMSG_NXTHDR(message, control);
        }
    }
    None
}

/// The index of an interface of this network namespace.
///
/// # Errors
/// `NotFound`; `InvalidInput` for a name that is none.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a C string, only read.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::ErrorKind::NotFound.into()),
        index => Ok(index),
    }
}

/// Whether the interface of a packet socket is up and its cable in.
///
/// # Errors
/// The interface is gone.
pub fn has_link(socket: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    let mut request = interface_request(name)?;
    // SAFETY: the kernel reads and writes an `ifreq`, which this is.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, std::ptr::from_mut(&mut request)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has written the flags.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(flags & libc::IFF_UP != 0 && carrier(socket, name)?.unwrap_or(flags & libc::IFF_RUNNING != 0))
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Whether the driver has a carrier; `None` if it cannot tell. The flag `IFF_RUNNING` says the same up to a second later, because
/// the kernel spares its listeners.
fn carrier(socket: BorrowedFd<'_>, name: &str) -> io::Result<Option<bool>> {
    const ETHTOOL_GLINK: u32 = 0xA;
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let mut link = EthtoolValue { command: ETHTOOL_GLINK, data: 0 };
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut link).cast();
    // SAFETY: the kernel reads an `ifreq` with a pointer to an `ethtool_value`, which it reads and writes; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut request)) };
    Ok((result == 0).then_some(link.data != 0))
}

/// A request about the interface `name`.
pub(crate) fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero: the end of the name.
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

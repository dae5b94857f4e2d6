//! [`open_tap`]: an interface of the host whose other end is a descriptor.

use crate::packet_socket::interface_request;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Opens the tap interface `name`. If there is none it appears, down and without addresses, and goes away with the last descriptor;
/// a persistent one stays. Frames have the kernel's 10-byte offload header in front, and may be TCP frames to be cut.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN; `ResourceBusy` if somebody has it open; `InvalidInput` for a name that is none.
pub fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let device = open_tun_device()?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes an `ifreq`, which this is.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    enable_offloads(&device)?;
    Ok(device)
}

/// Opens the descriptor of a macvtap interface with the given index, in the same form.
///
/// # Errors
/// There is none, or no permission.
pub fn open_macvtap(index: u32) -> io::Result<OwnedFd> {
    let path = format!("/dev/tap{index}");
    let device = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open(path)?);
    rustix::io::ioctl_fionbio(&device, true)?;
    let mut request = interface_request("")?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: as in `open_tap`.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, std::ptr::from_mut(&mut request)) } != 0 {
        return Err(io::Error::last_os_error());
    }
    enable_offloads(&device)?;
    Ok(device)
}

fn open_tun_device() -> io::Result<OwnedFd> {
    let device = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?);
    rustix::io::ioctl_fionbio(&device, true)?;
    Ok(device)
}

fn enable_offloads(device: &OwnedFd) -> io::Result<()> {
    const CSUM_TSO4_TSO6: libc::c_ulong = 0x01 | 0x02 | 0x04;
    const USO4_USO6: libc::c_ulong = 0x20 | 0x40;
    for offloads in [CSUM_TSO4_TSO6 | USO4_USO6, CSUM_TSO4_TSO6] {
        // SAFETY: the argument of this call is a number.
        if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) } == 0 {
            return Ok(());
        }
    }
    Err(io::Error::last_os_error())
}

//! Messages between processes: SEQPACKET Unix sockets, whole messages of up to 64 KiB with up to 32 descriptors.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors in one message.
pub const MAX_DESCRIPTORS: usize = 32;
/// Room for the kernel's record of that many descriptors.
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));
/// The longest path in a socket address (the kernel's 108 bytes hold a zero at the end).
const MAX_SOCKET_PATH: usize = 107;

/// Why a message was not sent or not taken.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Nothing to send: an empty message could not be told from the end of the connection.
    #[error("cannot send an empty message")]
    Empty,
    /// Longer than [`MAX_MESSAGE`]. Received ones are lost, with their descriptors closed.
    #[error("message of {len} bytes: the limit is {MAX_MESSAGE}; send large data by descriptor")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// More than [`MAX_DESCRIPTORS`].
    #[error("message with {count} descriptors: the limit is {MAX_DESCRIPTORS}")]
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// Not all descriptors of a received message arrived: too many, or this process may open no more. Those that
    /// came are closed again; the message is lost.
    #[error("descriptors were lost from a message: more than {MAX_DESCRIPTORS}, or the limit of open files is reached")]
    DescriptorsLost,
    /// The socket failed; `WouldBlock` on a non-blocking one that is not ready.
    #[error("message socket")]
    Socket(#[from] io::Error),
}

impl MessageError {
    /// Whether it is only that a non-blocking socket is not ready yet.
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::Socket(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// Its bytes, 1 to [`MAX_MESSAGE`].
    pub bytes: Vec<u8>,
    /// Its descriptors, in the order in which they were sent; closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// The process at the other end, as it was when it connected. The kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id; `None` if it is outside our process namespace.
    pub pid: Option<u32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// One end of a connection.
#[derive(Debug)]
pub struct SeqPacket(OwnedFd);

impl SeqPacket {
    /// Two connected ends, closed on exec (pass one to a child as its standard input, or by message).
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Connects to a [`SeqPacketListener`]. Paths of any length.
    ///
    /// # Errors
    /// Nobody listens, no permission, and the like.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let socket = new_socket()?;
        let (address, _directory) = address(path.as_ref())?;
        retry(|| rustix::net::connect(&socket, &address))?;
        Ok(Self(socket))
    }

    /// Makes `send` and `receive` fail with `WouldBlock` instead of waiting (or wait again).
    ///
    /// # Errors
    /// None that a socket can cause.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, nonblocking)?)
    }

    /// Sends a whole message or nothing. The descriptors are duplicated for the receiver. Never raises SIGPIPE.
    ///
    /// # Errors
    /// [`MessageError`]; `BrokenPipe` when the other end is closed.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), MessageError> {
        match (bytes.len(), descriptors.len()) {
            (0, _) => return Err(MessageError::Empty),
            (len, _) if len > MAX_MESSAGE => return Err(MessageError::TooLong { len }),
            (_, count) if count > MAX_DESCRIPTORS => return Err(MessageError::TooManyDescriptors { count }),
            _ => {}
        }
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(MessageError::TooManyDescriptors { count: descriptors.len() });
        }
        retry(|| rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Receives the next message; `None` when the other end is closed and all is read.
    ///
    /// # Errors
    /// [`MessageError`]. After one about the message itself the connection still works, but the other end does not
    /// keep to the rules.
    pub fn receive(&self) -> Result<Option<Message>, MessageError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        // TRUNC: the kernel reports the true length of a message that did not fit.
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
        let received =
            retry(|| rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags))?;
        // Taken out first: on every error below they are dropped, and so closed.
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(MessageError::DescriptorsLost);
        }
        if received.bytes > MAX_MESSAGE {
            return Err(MessageError::TooLong { len: received.bytes });
        }
        if received.bytes == 0 {
            return if descriptors.is_empty() { Ok(None) } else { Err(MessageError::Empty) };
        }
        bytes.truncate(received.bytes);
        bytes.shrink_to_fit();
        Ok(Some(Message { bytes, descriptors }))
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// The socket is not a connected Unix socket.
    // rustix has the call, but its process id cannot be 0, which is what a peer outside our namespace has.
    pub fn peer(&self) -> io::Result<PeerCredentials> {
        let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        let target = std::ptr::from_mut(&mut credentials).cast();
        let socket = self.0.as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes, the size of `credentials`, all of plain integers.
        if unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, target, &mut len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = u32::try_from(credentials.pid).ok().filter(|&pid| pid != 0);
        Ok(PeerCredentials { pid, uid: credentials.uid, gid: credentials.gid })
    }
}

/// A socket that arrived by other means: inherited, or in a message.
impl From<OwnedFd> for SeqPacket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<SeqPacket> for OwnedFd {
    fn from(socket: SeqPacket) -> Self {
        socket.0
    }
}

impl AsFd for SeqPacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Accepts connections at a path in the file system. The socket file stays when it is dropped; the next
/// [`bind`](Self::bind) takes its place.
#[derive(Debug)]
pub struct SeqPacketListener(OwnedFd);

impl SeqPacketListener {
    /// Listens at `path`, whose file gets permissions `mode` before anybody can connect. A socket file that nobody
    /// listens at any more is replaced; that two processes do so at once is for the caller to exclude.
    ///
    /// # Errors
    /// `AddrInUse` if somebody listens there or the file is no socket; no permission, and the like.
    pub fn bind(path: impl AsRef<Path>, mode: u32) -> io::Result<Self> {
        let path = path.as_ref();
        let socket = new_socket()?;
        let (address, _directory) = address(path)?;
        match rustix::net::bind(&socket, &address) {
            Err(rustix::io::Errno::ADDRINUSE) if is_abandoned(path) => {
                std::fs::remove_file(path)?;
                rustix::net::bind(&socket, &address)?;
            }
            result => result?,
        }
        rustix::fs::chmod(path, mode.into())?;
        rustix::net::listen(&socket, 64)?;
        Ok(Self(socket))
    }

    /// Waits for a connection (fails with `WouldBlock` when set non-blocking and there is none).
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn accept(&self) -> io::Result<SeqPacket> {
        Ok(SeqPacket(retry(|| rustix::net::accept_with(&self.0, SocketFlags::CLOEXEC))?))
    }

    /// Makes `accept` fail with `WouldBlock` instead of waiting (or wait again).
    ///
    /// # Errors
    /// None that a socket can cause.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, nonblocking)?)
    }
}

impl AsFd for SeqPacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A listening socket that was inherited from whoever started us.
impl From<OwnedFd> for SeqPacketListener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Whether a socket file is left over from a process that is gone. (Connecting to an ordinary file is refused as well.)
fn is_abandoned(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && SeqPacket::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The address of a path. One that is too long goes through its open directory, which must then stay open meanwhile.
fn address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    use rustix::fs::{Mode, OFlags};
    let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((SocketAddrUnix::new(&short)?, Some(directory)))
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

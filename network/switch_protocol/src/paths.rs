//! Where the switch and its definitions are, below the root that `--root` or `BULKHEAD_ROOT` moves.

use std::path::{Path, PathBuf};

/// The environment variable that moves everything.
pub const ROOT: &str = "BULKHEAD_ROOT";

/// The root: the given one, else that of the environment, else `/`.
pub fn root(given: Option<&Path>) -> PathBuf {
    given.map(Path::to_owned).or_else(|| std::env::var_os(ROOT).map(PathBuf::from)).unwrap_or_else(|| "/".into())
}

/// The socket that managing programs speak to.
pub fn control_socket(root: &Path) -> PathBuf {
    runtime(root).join("switch.sock")
}

/// The name of the socket that ports are attached at, in [`runtime`].
pub const PORTS_SOCKET: &str = "ports.sock";

/// The socket that ports are attached at.
pub fn ports_socket(root: &Path) -> PathBuf {
    runtime(root).join(PORTS_SOCKET)
}

/// The socket of `bulkhead-net-helper`.
pub fn helper_socket(root: &Path) -> PathBuf {
    runtime(root).join("net-helper.sock")
}

/// What lives until the host restarts.
pub fn runtime(root: &Path) -> PathBuf {
    root.join("run/bulkhead")
}

/// One TOML per port that exists.
pub fn ports(root: &Path) -> PathBuf {
    runtime(root).join("ports")
}

/// One TOML per switch.
pub fn definitions(root: &Path) -> PathBuf {
    root.join("var/lib/bulkhead/switches")
}

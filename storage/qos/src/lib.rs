//! Storage QoS: the I/O balancer, and limits and reserves for each disk.
//!
//! | module | what |
//! |---|---|
//! | `scheduler` | which waiting request starts next; pure, time is a parameter |
//! | `rate` | a limit per second; pure |
//! | `window` | how much may be in flight, so that the device answers in time; pure |
//! | `disk` | [`QosDisk`]: a node that asks the scheduler, on an I/O loop |
//!
//! Requests are counted as Hyper-V counts them: in units of 8 KiB, a begun unit is one. Who may start is decided in this order:
//!
//! 1. Nobody above its own maximum (IOPS or bytes per second).
//! 2. Nobody while the window is full. The window shrinks by a fifth every 100 ms in which the device took longer than the
//!    target latency (83 ms), and grows while it is full and the device is faster. Workers are processes of their own: each has
//!    its own window, and because all of them shrink by a share and grow by an amount, they approach equal shares.
//! 3. Disks of which nothing was started for half a second; then disks below their reserve.
//! 4. The others in turn, by weight. A turn has 1 / 8 % = 13 units: if changing from one disk to another costs the device
//!    as much as one unit, changing costs at most 8 % of its time.

mod disk;
mod rate;
mod scheduler;
mod window;

pub use disk::{Qos, QosDisk};
pub use scheduler::{Balance, FlowId, FlowStats, Limits, Scheduler, Ticket};

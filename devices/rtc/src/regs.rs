//! Places and bits in the clock's memory.

pub const SECONDS: usize = 0x00;
pub const SECONDS_ALARM: usize = 0x01;
pub const MINUTES: usize = 0x02;
pub const MINUTES_ALARM: usize = 0x03;
pub const HOURS: usize = 0x04;
pub const HOURS_ALARM: usize = 0x05;
pub const DAY_OF_WEEK: usize = 0x06;
pub const DAY: usize = 0x07;
pub const MONTH: usize = 0x08;
pub const YEAR: usize = 0x09;
pub const A: usize = 0x0a;
pub const B: usize = 0x0b;
pub const C: usize = 0x0c;
pub const D: usize = 0x0d;
/// As the FADT says.
pub const CENTURY: usize = 0x32;

/// Register A: an update begins within 244 us.
pub const A_UPDATING: u8 = 0x80;

/// Register B.
pub const B_SET: u8 = 0x80;
pub const B_PERIODIC: u8 = 0x40;
pub const B_ALARM: u8 = 0x20;
pub const B_UPDATE: u8 = 0x10;
pub const B_SQUARE_WAVE: u8 = 0x08;
pub const B_BINARY: u8 = 0x04;
pub const B_24_HOURS: u8 = 0x02;

/// Register C has the flags at the places of B's enable bits.
pub const C_ANY: u8 = 0x80;
pub const FLAGS: u8 = B_PERIODIC | B_ALARM | B_UPDATE;

/// Register D: the battery is good.
pub const D_VALID: u8 = 0x80;

/// Alarm bytes from here on match everything.
pub const ALARM_ANY: u8 = 0xc0;
/// The hour's PM bit in 12-hour mode.
pub const PM: u8 = 0x80;

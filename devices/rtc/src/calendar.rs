//! Seconds since 1970 to the clock's registers and back, in its four formats; and when an alarm comes next.

use crate::regs::*;

const DAY_SECONDS: i64 = 86_400;

/// The formats that register B chooses.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub binary: bool,
    pub hours_24: bool,
}

impl Format {
    pub fn of(b: u8) -> Format {
        Format { binary: b & B_BINARY != 0, hours_24: b & B_24_HOURS != 0 }
    }

    fn encode(self, number: u8) -> u8 {
        if self.binary { number } else { (number / 10 % 10) << 4 | (number % 10) }
    }

    fn decode(self, byte: u8) -> u8 {
        if self.binary { byte } else { (byte >> 4) * 10 + (byte & 0xf) }
    }

    fn encode_hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    fn decode_hour(self, byte: u8) -> u8 {
        if self.hours_24 {
            return self.decode(byte);
        }
        self.decode(byte & !PM) % 12 + if byte & PM != 0 { 12 } else { 0 }
    }
}

/// Writes the time `seconds` into the registers.
pub fn store(memory: &mut [u8; 256], seconds: i64, format: Format) {
    let days = seconds.div_euclid(DAY_SECONDS);
    let second = seconds.rem_euclid(DAY_SECONDS);
    let (year, month, day) = date(days);
    memory[SECONDS] = format.encode((second % 60) as u8);
    memory[MINUTES] = format.encode((second / 60 % 60) as u8);
    memory[HOURS] = format.encode_hour((second / 3600) as u8);
    // 1970 began on a Thursday; Sunday is 1.
    memory[DAY_OF_WEEK] = format.encode(((days + 4).rem_euclid(7) + 1) as u8);
    memory[DAY] = format.encode(day);
    memory[MONTH] = format.encode(month);
    memory[YEAR] = format.encode(year.rem_euclid(100) as u8);
    memory[CENTURY] = format.encode((year.div_euclid(100)).rem_euclid(100) as u8);
}

/// The time in the registers. Fields outside their range carry over, so that everything is some time.
pub fn load(memory: &[u8; 256], format: Format) -> i64 {
    let field = |place: usize| i64::from(format.decode(memory[place]));
    let year = field(CENTURY) * 100 + field(YEAR);
    let days = days(year, field(MONTH).clamp(1, 12), field(DAY));
    let hour = i64::from(format.decode_hour(memory[HOURS]));
    days * DAY_SECONDS + hour * 3600 + field(MINUTES) * 60 + field(SECONDS)
}

/// The first second after `after` at which the alarm bytes match.
pub fn next_alarm(memory: &[u8; 256], after: i64, format: Format) -> Option<i64> {
    let wanted = |place: usize, limit: u8, decode: &dyn Fn(u8) -> u8| -> Option<Option<u8>> {
        match memory[place] {
            ALARM_ANY.. => Some(None),
            byte => Some(Some(decode(byte))).filter(|number| number.is_some_and(|number| number < limit)),
        }
    };
    let second = wanted(SECONDS_ALARM, 60, &|byte| format.decode(byte))?;
    let minute = wanted(MINUTES_ALARM, 60, &|byte| format.decode(byte))?;
    let hour = wanted(HOURS_ALARM, 24, &|byte| format.decode_hour(byte))?;
    let first = after + 1;
    let (midnight, now) = (first - first.rem_euclid(DAY_SECONDS), first.rem_euclid(DAY_SECONDS));
    let matches = |wanted: Option<u8>, number: i64| wanted.is_none_or(|wanted| i64::from(wanted) == number);
    let minutes = (now / 60..2 * 1440).filter(|at| matches(hour, at / 60 % 24) && matches(minute, at % 60));
    for at in minutes.take(2) {
        let from = if at == now / 60 { now % 60 } else { 0 };
        if let Some(found) = (from..60).find(|number| matches(second, *number)) {
            return Some(midnight + at * 60 + found);
        }
    }
    None
}

/// Year, month and day of a day since 1970, in the Gregorian calendar; eras of 400 years begin in March.
pub fn date(days: i64) -> (i64, u8, u8) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month as u8, day as u8)
}

/// Days since 1970 of a date; days outside the month carry over.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

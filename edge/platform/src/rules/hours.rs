//! `active = "Mon-Fri 18:00-08:00"`: the hours of a week in which a rule's conditions count.
//!
//! [`Hours`] is the parsed text and knows no time zone; [`LocalClock`] turns a frame's wall time
//! into the day and minute on the device's wall, once a minute for all rules together.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const MINUTE_NS: i64 = 60 * visualpath_core::NS_PER_S;
const DAY_MINUTES: u16 = 24 * 60;
/// Most windows of one rule.
const MAX_WINDOWS: usize = 32;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A minute on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalMinute {
    /// 0 is Monday.
    pub day: u8,
    /// Of the day, 0 to 1439.
    pub minute: u16,
}

/// The hours of a week in which a rule is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hours(Vec<Window>);

/// From `from` on each of its days to before `to`, which lies on the next day if it is not later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Bit 0 is Monday.
    days: u8,
    from: u16,
    to: u16,
}

impl Hours {
    /// Reads windows such as `Mon-Fri,Sun 18:00-08:00`, separated by `;`. The error says what was
    /// expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let windows: Vec<Window> = text
            .split(';')
            .take(MAX_WINDOWS + 1)
            .map(Window::parse)
            .collect::<Result<_, _>>()?;
        if windows.len() > MAX_WINDOWS {
            return Err(format!("more than {MAX_WINDOWS} windows"));
        }
        Ok(Self(windows))
    }

    pub fn contain(&self, now: LocalMinute) -> bool {
        self.0.iter().any(|w| w.contains(now))
    }
}

impl Window {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |what: &str| {
            Err(format!(
                "{what}: expected days and times as in \"Mon-Fri 18:00-08:00\", several separated \
                 by `;`"
            ))
        };
        if text.is_empty() {
            return wrong("a window is empty");
        }
        let Some(at) = text.find(|c: char| c.is_ascii_digit()) else {
            return wrong(&format!("`{text}` has no times"));
        };
        let (days, times) = text.split_at(at);
        let days = match days.trim() {
            "" => 0b111_1111,
            days => read_days(days)?,
        };
        let Some((from, to)) = times.split_once('-') else {
            return wrong(&format!("`{text}` has no end"));
        };
        let (from, to) = (read_time(from)?, read_time(to)?);
        if from == DAY_MINUTES {
            return Err("24:00 can only end a window: write 00:00 of the next day".to_owned());
        }
        if from == to {
            return Err(format!(
                "`{}` ends when it begins; the whole day is 00:00-24:00",
                times.trim()
            ));
        }
        Ok(Self { days, from, to })
    }

    fn contains(self, LocalMinute { day, minute }: LocalMinute) -> bool {
        let on = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            on(day) && (self.from..self.to).contains(&minute)
        } else {
            (on(day) && minute >= self.from) || (on((day + 6) % 7) && minute < self.to)
        }
    }
}

/// A comma list of days and ranges of days, as bits. A range may go over the end of the week.
fn read_days(text: &str) -> Result<u8, String> {
    let mut bits = 0;
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (read_day(first)?, read_day(last)?),
            None => {
                let day = read_day(part)?;
                (day, day)
            }
        };
        let mut day = first;
        bits |= 1 << day;
        while day != last {
            day = (day + 1) % 7;
            bits |= 1 << day;
        }
    }
    Ok(bits)
}

/// 0 is Monday.
fn read_day(text: &str) -> Result<u8, String> {
    let text = text.trim();
    (0..)
        .zip(DAYS)
        .find_map(|(index, day)| day.eq_ignore_ascii_case(text).then_some(index))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a day: expected one of {}, or a range such as Mon-Fri",
                DAYS.join(", ")
            )
        })
}

/// Minutes since midnight, up to 24:00.
fn read_time(text: &str) -> Result<u16, String> {
    let text = text.trim();
    let number = |digits: &str, lengths: &[usize]| {
        let good = lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        good.then(|| digits.parse::<u16>().ok()).flatten()
    };
    text.split_once(':')
        .and_then(|(hours, minutes)| Some((number(hours, &[1, 2])?, number(minutes, &[2])?)))
        .filter(|(hours, minutes)| *hours < 24 && *minutes < 60 || (*hours, *minutes) == (24, 0))
        .map(|(hours, minutes)| hours * 60 + minutes)
        .ok_or_else(|| format!("`{text}` is not a time: expected HH:MM, 00:00 to 24:00"))
}

/// Tells the minute on the wall in one time zone. Converts once a minute.
#[derive(Debug)]
pub(super) struct LocalClock {
    timezone: TimeZone,
    /// The last answer, with its minute since 1970 UTC.
    last: Option<(i64, LocalMinute)>,
}

impl LocalClock {
    pub fn new(timezone: TimeZone) -> Self {
        Self {
            timezone,
            last: None,
        }
    }

    pub fn timezone(&self) -> &TimeZone {
        &self.timezone
    }

    /// The minute that `unix_ns`, nanoseconds since 1970 UTC, lies in.
    pub fn minute(&mut self, unix_ns: i64) -> LocalMinute {
        let minute = unix_ns.div_euclid(MINUTE_NS);
        match self.last {
            Some((last, local)) if last == minute => local,
            _ => {
                let local = self.convert(minute);
                self.last = Some((minute, local));
                local
            }
        }
    }

    fn convert(&self, minute: i64) -> LocalMinute {
        // 64 bits of nanoseconds reach from 1677 to 2262, well inside a Timestamp's range.
        let begin = Timestamp::from_second(minute.saturating_mul(60)).unwrap_or_default();
        let local = self.timezone.to_datetime(begin);
        let unsigned = |n: i8| u16::try_from(n).unwrap_or(0);
        LocalMinute {
            day: u8::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0),
            minute: unsigned(local.hour()) * 60 + unsigned(local.minute()),
        }
    }
}

//! Durations and sizes as people write them: `"5s"`, `"64MiB"`.

use std::time::Duration;

/// Milliseconds in each unit, the greatest first.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes in each unit, the greatest first.
const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads a whole number and one unit.
pub fn duration(text: &str) -> Option<Duration> {
    amount(text, &DURATIONS).map(Duration::from_millis)
}

/// Reads bytes: a whole number, with or without one unit.
pub(super) fn size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| amount(text, &SIZES))
}

/// Writes a duration in the greatest unit that it fills.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &DURATIONS).unwrap_or_else(|| "0s".into())
}

/// Writes a size in the greatest unit that it fills.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES).unwrap_or_else(|| bytes.to_string())
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    count.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, units: &[(&str, u64)]) -> Option<String> {
    let (name, factor) = units.iter().find(|(_, f)| amount > 0 && amount.is_multiple_of(*f))?;
    Some(format!("{}{name}", amount / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("48h"), duration("2d"));
        for text in ["", "5", "s", "1.5s", "-5s", "5 s", "5S", "5sec", "99999999999999999999d"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bytes_unless_a_unit_says_more() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64KiB", 65_536), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "64MB", "1.5GiB", "-1", "64 MiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(amount in 0u64..u64::MAX / 2) {
            let time = Duration::from_millis(amount);
            prop_assert_eq!(duration(&show_duration(time)), Some(time));
            prop_assert_eq!(size(&show_size(amount)), Some(amount));
        }
    }
}

//! A file in a line, as `ls -l` prints it: SFTP's version 3 has servers make it.

use p2pnode_executor::inside::FileStat;

/// Seconds in a day.
const DAY: i64 = 86_400;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The line of a file; times are in UTC, with the year, because what a sandbox's clock zone and
/// today's date are is not asked here.
pub(super) fn line(name: &[u8], stat: &FileStat) -> Vec<u8> {
    let (year, month, day) = date(stat.mtime.div_euclid(DAY));
    let month = MONTHS.get(month).copied().unwrap_or_default();
    let mut line = format!(
        "{} {:>4} {:<8} {:<8} {:>8} {month} {day:>2}  {year:>4} ",
        mode(stat.mode),
        1,
        stat.uid,
        stat.gid,
        stat.size
    )
    .into_bytes();
    line.extend_from_slice(name);
    line
}

/// `drwxr-xr-x`.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o060_000 => 'b',
        0o020_000 => 'c',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for shift in [6, 3, 0] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(if bits & 1 != 0 { 'x' } else { '-' });
    }
    text
}

/// Year, month from 0, and day of a number of days since 1970-01-01, by the algorithm of Hinnant,
/// "chrono-compatible low-level date algorithms".
fn date(days: i64) -> (i64, usize, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 2
    } else {
        shifted - 10
    };
    let year = year_of_era + era * 400 + i64::from(month < 2);
    (year, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_printed_as_ls_does() {
        let stat = FileStat {
            mode: 0o100_640,
            size: 1234,
            uid: 1000,
            gid: 100,
            atime: 0,
            mtime: 951_782_400, // 2000-02-29
        };
        let line = String::from_utf8(line(b"notes", &stat)).unwrap();
        assert_eq!(
            line,
            "-rw-r-----    1 1000     100          1234 Feb 29  2000 notes"
        );
        assert_eq!(date(0), (1970, 0, 1));
        assert_eq!(date(20_779), (2026, 10, 22));
    }
}

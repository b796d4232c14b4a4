//! The clock: adverts are signed with a time, and one that is 2 minutes off is refused.

use std::path::Path;
use std::time::{Duration, SystemTime};

use p2pnode_protocol::advert::MAX_SKEW_MS;
use p2pnode_protocol::api::AdvertTimes;

use super::finding::Finding;

/// How far clocks may be apart.
const MAX_SKEW: Duration = Duration::from_millis(MAX_SKEW_MS);

/// Where systemd says whether the clock follows others; its folder is there when it is asked to.
const TIMESYNC: &str = "/run/systemd/timesync";

/// What is known of time.
#[derive(Debug, Clone, Copy)]
struct Times {
    now: SystemTime,
    /// By which a file was marked that was written just now.
    written: Option<SystemTime>,
    /// From when this program's own file is.
    program: Option<SystemTime>,
    /// Whether the clock follows others, where that is told.
    follows: Option<bool>,
    /// What a running node saw.
    adverts: Option<AdvertTimes>,
}

/// Looks at the clock; `folder` is there and files can be made in it.
pub fn look(folder: &Path, adverts: Option<AdvertTimes>) -> Finding {
    let modified = |meta: std::io::Result<std::fs::Metadata>| meta.ok()?.modified().ok();
    let written = write_something(folder).and_then(|file| modified(file.as_file().metadata()));
    let program = std::env::current_exe().ok();
    let timesync = Path::new(TIMESYNC);
    judge(&Times {
        now: SystemTime::now(),
        written,
        program: program.and_then(|program| modified(program.metadata())),
        follows: timesync
            .is_dir()
            .then(|| timesync.join("synchronized").exists()),
        adverts,
    })
}

fn write_something(folder: &Path) -> Option<tempfile::NamedTempFile> {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new_in(folder).ok()?;
    file.write_all(b"p2pnode").ok()?;
    Some(file)
}

fn judge(times: &Times) -> Finding {
    let mend = "timedatectl set-ntp true (or start chronyd), then look: date -u";
    let apart =
        |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_else(|error| error.duration());
    let wrong = |found: String| Finding::fault("clock", found).mend(mend);
    let program = times.program;
    if program.is_some_and(|program| program > times.now && apart(program, times.now) > MAX_SKEW) {
        return wrong("it stands before the day on which this program was installed".to_owned());
    }
    if let Some(written) = times.written
        && apart(written, times.now) > MAX_SKEW
    {
        let off =
            humantime::format_duration(Duration::from_secs(apart(written, times.now).as_secs()));
        return wrong(format!(
            "the data directory's filesystem marks files with a time that is {off} off: this clock or its server's is wrong"
        ));
    }
    let seen = times.adverts.unwrap_or_default();
    let refused = format!(
        "adverts of peers: {} fit this clock, {} come from more than 2 minutes ahead of it, {} were over for longer than that",
        seen.accepted, seen.future, seen.expired
    );
    if seen.accepted == 0 && seen.future + seen.expired > 0 {
        return wrong(refused);
    }
    if seen.future > 0 {
        return Finding::warning("clock", format!("{refused}: this clock or theirs is wrong"))
            .mend(mend);
    }
    if times.follows == Some(false) {
        return Finding::warning("clock", "it does not follow a time server").mend(mend);
    }
    Finding::ok(
        "clock",
        match times.adverts {
            Some(seen) if seen.accepted > 0 => "agrees with its peers' to 2 minutes",
            _ if times.follows == Some(true) => "follows a time server",
            _ => "runs; with what to compare it is not known without peers",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn times() -> Times {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Times {
            now,
            written: Some(now),
            program: Some(now - Duration::from_secs(9)),
            follows: None,
            adverts: None,
        }
    }

    fn seen(accepted: u64, future: u64, expired: u64) -> State {
        let adverts = AdvertTimes {
            accepted,
            future,
            expired,
        };
        judge(&Times {
            adverts: Some(adverts),
            ..times()
        })
        .state
    }

    #[test]
    fn a_clock_apart_from_files_or_from_all_peers_is_a_fault() {
        assert_eq!(judge(&times()).state, State::Ok);
        let late = times().now + MAX_SKEW + Duration::from_secs(1);
        for wrong in [
            Times {
                written: Some(late),
                ..times()
            },
            Times {
                program: Some(late),
                ..times()
            },
        ] {
            let found = judge(&wrong);
            assert_eq!(found.state, State::Fault, "{found:?}");
            assert!(found.mend.unwrap().contains("timedatectl"));
        }
        assert_eq!(seen(0, 1, 0), State::Fault);
        assert_eq!(seen(0, 0, 1), State::Fault);
        assert_eq!(seen(0, 0, 0), State::Ok);
    }

    #[test]
    fn some_peers_or_no_time_server_is_a_warning() {
        assert_eq!(seen(3, 1, 0), State::Warning);
        // Old adverts go round for a while when a peer has gone.
        assert_eq!(seen(3, 0, 2), State::Ok);
        let follows = |follows| judge(&Times { follows, ..times() }).state;
        assert_eq!(follows(Some(false)), State::Warning);
        assert_eq!(follows(Some(true)), State::Ok);
    }

    #[test]
    fn this_machines_clock_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(look(folder.path(), None).state, State::Fault);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

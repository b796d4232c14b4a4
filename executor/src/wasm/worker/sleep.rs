//! A `poll_oneoff` that only sleeps.
//!
//! wasmtime's blocks the thread for it where file calls may block, and could not be cancelled; here
//! the task gives its thread to others. [`super::wasi`] calls this; layouts are those of WASI preview
//! 1. Whatever cannot be read here is left to wasmtime to refuse.

use std::time::Duration;

use wiggle::GuestMemory;

/// `subclockflags` "the timeout is a point in time".
const CLOCK_ABSTIME: u16 = 1;

/// `eventtype` of a timer.
const EVENT_CLOCK: u8 = 0;

/// Clocks that a guest may sleep on: realtime and monotonic.
const SLEEP_CLOCKS: std::ops::RangeInclusive<u32> = 0..=1;

/// Bytes of a `subscription`.
const SUBSCRIPTION_BYTES: usize = 48;

/// Bytes of an `event`.
const EVENT_BYTES: usize = 32;

/// A guest that wants to sleep.
#[derive(Debug, PartialEq, Eq)]
pub struct Sleep {
    userdata: [u8; 8],
    /// How long.
    pub duration: Duration,
}

impl Sleep {
    /// The sleep that a `poll_oneoff` asks for, when it asks for nothing else.
    pub fn asked_for(memory: &GuestMemory<'_>, subscriptions: i32, count: i32) -> Option<Self> {
        let GuestMemory::Unshared(memory) = memory else {
            return None;
        };
        if count != 1 {
            return None;
        }
        let start = subscriptions as u32 as usize;
        let bytes = memory.get(start..start.checked_add(SUBSCRIPTION_BYTES)?)?;
        // userdata u64, tag u8; then for a timer: id u32, timeout u64, precision u64, flags u16.
        let flags = u16::from_le_bytes([bytes[40], bytes[41]]);
        let clock = read_u32(bytes, 16)?;
        if bytes[8] != EVENT_CLOCK || !SLEEP_CLOCKS.contains(&clock) || flags & CLOCK_ABSTIME != 0 {
            return None;
        }
        Some(Self {
            userdata: *bytes.first_chunk()?,
            duration: Duration::from_nanos(u64::from_le_bytes(*bytes[24..].first_chunk()?)),
        })
    }

    /// Writes the event of the timer that fired; returns the errno.
    ///
    /// # Errors
    /// When the guest's pointers lead out of its memory, which ends it.
    pub fn report(
        &self,
        memory: &mut GuestMemory<'_>,
        events: i32,
        out: i32,
    ) -> wasmtime::Result<i32> {
        let GuestMemory::Unshared(memory) = memory else {
            return Ok(0);
        };
        // userdata u64, errno u16, type u8, then what only files have: all zero but the first.
        let mut event = [0; EVENT_BYTES];
        event[..8].copy_from_slice(&self.userdata);
        write(memory, events, &event)?;
        write(memory, out, &1_u32.to_le_bytes())?;
        Ok(0)
    }
}

/// The number at this place in a guest's memory.
pub fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*chunk))
}

fn write(memory: &mut [u8], at: i32, bytes: &[u8]) -> wasmtime::Result<()> {
    let at = at as u32 as usize;
    let Some(target) = memory.get_mut(at..at.saturating_add(bytes.len())) else {
        wiggle::error::bail!("a pointer outside the memory was passed to poll_oneoff");
    };
    target.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A memory with one subscription at 8.
    fn memory(clock: u32, flags: u16, tag: u8) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[8..16].copy_from_slice(b"userdata");
        bytes[16] = tag;
        bytes[24..28].copy_from_slice(&clock.to_le_bytes());
        bytes[32..40].copy_from_slice(&1_500_u64.to_le_bytes());
        bytes[48..50].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    fn asked(mut bytes: Vec<u8>, at: i32, count: i32) -> Option<Sleep> {
        Sleep::asked_for(&GuestMemory::Unshared(&mut bytes), at, count)
    }

    #[test]
    fn only_plain_sleeps_are_taken() {
        for clock in [0, 1] {
            let sleep = asked(memory(clock, 0, 0), 8, 1).unwrap();
            assert_eq!(sleep.duration, Duration::from_nanos(1_500));
        }
        assert_eq!(asked(memory(2, 0, 0), 8, 1), None, "CPU time");
        assert_eq!(asked(memory(1, 1, 0), 8, 1), None, "a point in time");
        assert_eq!(asked(memory(1, 0, 1), 8, 1), None, "a file");
        assert_eq!(asked(memory(1, 0, 0), 8, 2), None, "two subscriptions");
        for at in [100, -1, i32::MIN] {
            assert_eq!(asked(memory(1, 0, 0), at, 1), None, "outside");
        }
    }

    #[test]
    fn the_event_says_which_timer_fired() {
        let mut bytes = memory(1, 0, 0);
        let mut guest = GuestMemory::Unshared(&mut bytes);
        let sleep = Sleep::asked_for(&guest, 8, 1).unwrap();
        assert_eq!(sleep.report(&mut guest, 64, 100).unwrap(), 0);
        assert!(sleep.report(&mut guest, 120, 100).is_err());
        assert!(sleep.report(&mut guest, 64, -1).is_err());
        assert_eq!(&bytes[64..72], b"userdata");
        assert_eq!(bytes[72..96], [0; 24]);
        assert_eq!(bytes[100..104], [1, 0, 0, 0]);
    }
}

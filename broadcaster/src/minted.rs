//! A minted link, and for how long it opens and is kept.
//!
//! What is written are times of the clock that is set, since nothing else outlives the machine. While the broadcaster
//! runs, the clock that only goes on counts as well: a link opens until the first of both says that it is over, and is
//! forgotten by the latter alone. So the clock that is set may jump: back, and no link that is over opens again; ahead,
//! and none is forgotten for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// So long after its end a link is forgotten.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// One minted link, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Minted {
    /// What the operator calls it.
    pub(crate) name: String,
    /// BLAKE3 of its secret, in hexadecimal.
    pub(crate) digest: String,
    /// When it was made, in seconds since 1970.
    pub(crate) made: u64,
    /// Until when it opens.
    pub(crate) expires: Option<u64>,
    /// For how many viewers it opens.
    pub(crate) uses: Option<u32>,
    /// For how many it has.
    pub(crate) used: u32,
    /// When it was used last, where uses are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used_at: Option<u64>,
}

impl Minted {
    pub(crate) fn has_uses(&self) -> bool {
        self.uses.is_none_or(|uses| self.used < uses)
    }

    /// When it came to its end, where that is known to come.
    fn ended(&self) -> Option<u64> {
        let used_up = self.used_at.filter(|_| !self.has_uses());
        self.expires.into_iter().chain(used_up).min()
    }
}

/// A link of a broadcaster that runs. Times are those of [`Moment::running`].
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) minted: Minted,
    /// From when on it opens no more.
    over_at: Option<Duration>,
    /// From when on it is forgotten.
    forgotten_at: Option<Duration>,
}

impl Kept {
    /// A link that was minted, or read, now: both clocks are taken to agree.
    pub(crate) fn new(minted: Minted, now: Moment) -> Self {
        // Never, where it is too far away to be told.
        let reached =
            |wall: u64| now.running.checked_add(Duration::from_secs(wall.saturating_sub(now.wall)));
        let forgotten = |ended: u64| reached(ended.saturating_add(FORGOTTEN_AFTER.as_secs()));
        let over_at = minted.expires.and_then(reached);
        let forgotten_at = minted.ended().and_then(forgotten);
        Self { minted, over_at, forgotten_at }
    }

    /// For how long it opens; `None`: until it is used up or revoked.
    pub(crate) fn opens_for(&self, now: Moment) -> Option<Duration> {
        let by_wall =
            self.minted.expires.map(|until| Duration::from_secs(until.saturating_sub(now.wall)));
        let by_running = self.over_at.map(|at| at.saturating_sub(now.running));
        by_wall.into_iter().chain(by_running).min()
    }

    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.opens_for(now).is_some_and(|left| left.is_zero())
    }

    pub(crate) fn is_forgotten(&self, now: Moment) -> bool {
        self.forgotten_at.is_some_and(|at| at <= now.running)
    }

    /// One more viewer enters by it.
    pub(crate) fn is_used(&mut self, now: Moment) {
        let minted = &mut self.minted;
        minted.used = minted.used.saturating_add(1);
        minted.used_at = minted.uses.map(|_| now.wall);
        if !minted.has_uses() {
            let used_up = now.running.checked_add(FORGOTTEN_AFTER);
            self.forgotten_at = self.forgotten_at.into_iter().chain(used_up).min();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const YEARS: u64 = 10 * 365 * 24 * HOUR;

    /// So long after the beginning by the clock that only goes on, and so many seconds later or earlier by the other.
    fn at(running: u64, jump: i64) -> Moment {
        let wall = (1_800_000_000 + running).saturating_add_signed(jump);
        Moment { wall, running: Duration::from_secs(500 + running) }
    }

    fn link(expires: Option<u64>, uses: Option<u32>) -> Minted {
        let made = at(0, 0).wall;
        let name = "grandma".to_owned();
        Minted { name, digest: String::new(), made, expires, uses, used: 0, used_at: None }
    }

    #[test]
    fn the_first_clock_ends_it_and_none_that_jumps_has_it_forgotten() {
        let month = FORGOTTEN_AFTER.as_secs();
        let lasting = Kept::new(link(Some(at(60, 0).wall), None), at(0, 0));
        let (hour, years) = (HOUR as i64, YEARS as i64);
        // Seconds that it runs, what the other clock jumped by; whether it is over, and forgotten.
        let table = [
            (59, 0, false, false),
            (60, 0, true, false),
            (61, -hour, true, false),
            (59, -hour, false, false),
            (1, hour, true, false),
            (1, years, true, false),
            (1, 0, false, false),
            (60 + month - 1, years, true, false),
            (60 + month, 0, true, true),
            (60 + month, -years, true, true),
        ];
        for (running, jump, is_over, is_forgotten) in table {
            let now = at(running, jump);
            let told = (lasting.is_over(now), lasting.is_forgotten(now));
            assert_eq!(told, (is_over, is_forgotten), "{running} s, {jump} s off");
        }
        let left = |running, jump| lasting.opens_for(at(running, jump)).map(|left| left.as_secs());
        assert_eq!([left(10, 0), left(10, 20), left(10, -20)], [Some(50), Some(30), Some(50)]);
    }

    #[test]
    fn what_was_over_when_it_was_read_is_forgotten_in_time() {
        let (month, day) = (FORGOTTEN_AFTER.as_secs(), 24 * HOUR);
        let ended = at(0, 0).wall - month + day;
        let expired = link(Some(ended), None);
        let used_up = Minted { used: 1, used_at: Some(ended), ..link(None, Some(1)) };
        for minted in [expired, used_up] {
            let kept = Kept::new(minted.clone(), at(0, 0));
            assert!(kept.is_over(at(0, 0)) || !kept.minted.has_uses());
            assert!(!kept.is_forgotten(at(1, YEARS as i64)) && !kept.is_forgotten(at(day - 1, 0)));
            assert!(kept.is_forgotten(at(day, 0)) && kept.is_forgotten(at(day, -(HOUR as i64))));
            assert!(Kept::new(minted, at(day, 0)).is_forgotten(at(day, 0)));
        }
        let ever = Kept::new(link(Some(u64::MAX), None), at(0, 0));
        assert!(!ever.is_over(at(YEARS, 0)) && !ever.is_forgotten(at(YEARS, 0)));
    }

    #[test]
    fn what_is_used_up_is_forgotten_by_the_clock_that_goes_on() {
        let month = FORGOTTEN_AFTER.as_secs();
        let mut kept = Kept::new(link(None, Some(2)), at(0, 0));
        kept.is_used(at(5, 0));
        assert!(kept.minted.has_uses() && !kept.is_forgotten(at(YEARS, 0)));
        kept.is_used(at(10, YEARS as i64));
        assert!(!kept.minted.has_uses() && !kept.is_forgotten(at(9 + month, YEARS as i64)));
        assert!(kept.is_forgotten(at(10 + month, 0)));
    }
}

//! Which of several renditions of one picture a viewer is sent: the best that its path carries.
//!
//! Down goes who is found to have a full path ([`crate::congestion`]), at once and as far as it takes. Up goes whose
//! path brought what was sent at once, as a keyframe is, fast enough. What turned out too much is not tried again for a
//! while, and longer each time. So a viewer does not swing between two renditions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::congestion::Carries;
use crate::units::Bitrate;

/// How much more than a rendition needs a path must have been seen to bring.
const HEADROOM: f64 = 1.25;

/// From a change to the next one upwards, and to one where nothing is seen of what the path brings: then pictures are so
/// small that the next rendition's are as well.
const REST: Duration = Duration::from_secs(2);
const BLIND: Duration = Duration::from_secs(3);

/// How long it counts that a path brought too little for a rendition, where nothing newer is seen.
const REMEMBERED: Duration = Duration::from_secs(120);

/// A rendition that was too much within so long of being tried was not what the path carries.
const TRYING: Duration = Duration::from_secs(10);

/// How long it is not tried again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_secs(8);
const LONGEST_WAIT: Duration = Duration::from_secs(128);

/// Follows one viewer.
#[derive(Debug)]
pub struct Choice {
    /// What each needs with all that goes with it, best first.
    needs: Arc<[Bitrate]>,
    current: usize,
    began: Instant,
    changed_at: Option<Instant>,
    went_up: bool,
    tries: Vec<Try>,
    /// What the path brought last, as far as that was seen.
    brought: Option<(Instant, Bitrate)>,
}

/// What became of trying a rendition.
#[derive(Debug, Clone, Copy)]
struct Try {
    not_before: Option<Instant>,
    wait: Duration,
}

impl Choice {
    /// For who begins now with the smallest of these: what each needs, best first.
    pub fn new(needs: Arc<[Bitrate]>, now: Instant) -> Self {
        let tries = vec![Try { not_before: None, wait: FIRST_WAIT }; needs.len()];
        let current = needs.len().saturating_sub(1);
        Self { needs, current, began: now, changed_at: None, went_up: false, tries, brought: None }
    }

    /// The one that was chosen last.
    pub fn current(&self) -> usize {
        self.current
    }

    /// What each needs from now on, best first: as many as before.
    pub fn set_needs(&mut self, needs: Arc<[Bitrate]>) {
        debug_assert_eq!(needs.len(), self.needs.len(), "the same renditions");
        self.needs = needs;
    }

    /// The viewer's path is another one: what was tried on the former says nothing about it.
    pub fn moved(&mut self) {
        self.tries.fill(Try { not_before: None, wait: FIRST_WAIT });
        self.brought = None;
    }

    /// Takes what the path carries, and how fast it brought what was sent at once of late, if that is known. `is_ours` says
    /// that it is the sender's uplink that is full: then nobody gets more. The rendition to go on with, where that is
    /// another one.
    pub fn report(
        &mut self,
        carries: Carries,
        brought: Option<Bitrate>,
        is_ours: bool,
        now: Instant,
    ) -> Option<usize> {
        if let Some(brought) = brought {
            self.brought = Some((now, brought));
        }
        let next = match carries {
            Carries::Nothing => return None,
            Carries::Only(rate) => {
                let least = (0..self.needs.len()).min_by_key(|at| self.needs[*at])?;
                self.needs.iter().position(|needs| *needs <= rate).unwrap_or(least)
            }
            Carries::Everything if is_ours => return None,
            Carries::Everything => self.better(brought, now)?,
        };
        if next == self.current {
            return None;
        }
        // What comes encoded may need less than what is made of it.
        let is_down = next > self.current || self.needs[next] < self.needs[self.current];
        match (is_down, carries) {
            (true, _) => self.too_much(now),
            // A full path is not tried with more.
            (false, Carries::Only(_)) => return None,
            (false, _) => {}
        }
        (self.current, self.changed_at, self.went_up) = (next, Some(now), !is_down);
        Some(next)
    }

    /// The best one that may be tried.
    fn better(&self, brought: Option<Bitrate>, now: Instant) -> Option<usize> {
        let rested = |rest: Duration| self.changed_at.is_none_or(|at| now >= at + rest);
        if self.current == 0 || !rested(REST) {
            return None;
        }
        let may_try = |at: &usize| self.tries[*at].not_before.is_none_or(|at| now >= at);
        let fits = |at: usize, brought: Bitrate| self.needs[at].scaled(HEADROOM) <= brought;
        match brought {
            Some(brought) => (0..self.current).filter(|at| fits(*at, brought)).find(may_try),
            // One step, as all that comes does come.
            None if now >= self.changed_at.unwrap_or(self.began) + BLIND => {
                let known = self.brought.filter(|(at, _)| now < *at + REMEMBERED);
                let next = Some(self.current - 1).filter(may_try);
                next.filter(|next| known.is_none_or(|(_, brought)| fits(*next, brought)))
            }
            None => None,
        }
    }

    /// The current one was too much.
    fn too_much(&mut self, now: Instant) {
        let tried = self.went_up && self.changed_at.is_some_and(|at| now < at + TRYING);
        let Some(this) = self.tries.get_mut(self.current) else { return };
        if tried {
            this.not_before = Some(now + this.wait);
            this.wait = (this.wait * 2).min(LONGEST_WAIT);
        } else {
            *this = Try { not_before: None, wait: FIRST_WAIT };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(kilobits: u64) -> Bitrate {
        Bitrate::bits_per_second(kilobits * 1000)
    }

    fn choice() -> Choice {
        Choice::new([4300, 1700, 650].map(rate).into(), Instant::now())
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn each_path_gets_what_it_brings() {
        for (brings, expected) in [(1_000, 2), (3_000, 1), (8_000, 0), (5_000, 1), (100_000, 0)] {
            let mut choice = choice();
            let now = Instant::now();
            choice.report(Carries::Everything, None, false, now);
            choice.report(Carries::Everything, Some(rate(brings)), false, now);
            assert_eq!(choice.current(), expected, "{brings}");
        }
    }

    #[test]
    fn a_path_that_becomes_narrow_or_wide_is_followed() {
        let mut choice = choice();
        let mut now = Instant::now();
        assert_eq!(choice.report(Carries::Everything, Some(rate(8_000)), false, now), Some(0));
        now += 60 * S;
        assert_eq!(choice.report(Carries::Only(rate(900)), Some(rate(8_000)), false, now), Some(2));
        assert_eq!(choice.report(Carries::Everything, Some(rate(1_000)), false, now + S), None);
        assert_eq!(
            choice.report(Carries::Everything, Some(rate(8_000)), false, now + S),
            None,
            "rest"
        );
        now += 3 * S;
        assert_eq!(
            choice.report(Carries::Everything, Some(rate(8_000)), false, now),
            Some(0),
            "sound"
        );
        assert_eq!(choice.report(Carries::Nothing, None, false, now), None);
    }

    #[test]
    fn what_was_too_much_is_not_tried_again_soon() {
        let mut choice = choice();
        let began = Instant::now();
        let mut tries = Vec::new();
        // Keyframes come fast enough, and the rest does not: a link with a large bucket.
        for second in 0..300 {
            let now = began + second * S;
            let carries = if choice.current() == 0 {
                Carries::Only(rate(2_500))
            } else {
                Carries::Everything
            };
            if choice.report(carries, Some(rate(50_000)), false, now) == Some(0) {
                tries.push(second);
            }
        }
        assert_eq!(tries, [0, 9, 26, 59, 124, 253], "each time later");
        choice.moved();
        assert_eq!(choice.current(), 1);
        let now = began + 300 * S;
        assert_eq!(choice.report(Carries::Everything, Some(rate(50_000)), false, now), Some(0));
    }

    #[test]
    fn where_nothing_is_seen_of_what_a_path_brings_it_goes_up_step_by_step() {
        let mut choice = choice();
        let now = Instant::now();
        let mut steps = Vec::new();
        for second in 0..10 {
            let next = choice.report(Carries::Everything, None, false, now + second * S);
            steps.extend(next.map(|next| (second, next)));
        }
        assert_eq!(steps, [(3, 1), (6, 0)]);
    }

    #[test]
    fn a_path_that_brought_too_little_is_not_tried_blindly() {
        let mut choice = choice();
        let now = Instant::now();
        choice.report(Carries::Everything, Some(rate(3_000)), false, now);
        assert_eq!(choice.current(), 1);
        for second in 1..120 {
            let next = choice.report(Carries::Everything, None, false, now + second * S);
            assert_eq!(next, None, "after {second} s");
        }
        assert_eq!(choice.report(Carries::Everything, None, false, now + 120 * S), Some(0));
    }

    #[test]
    fn a_rendition_that_needs_less_is_chosen_where_it_did_not_fit() {
        let mut choice = choice();
        let now = Instant::now();
        let fits = Some(rate(3_000));
        assert_eq!(choice.report(Carries::Everything, fits, false, now), Some(1));
        assert_eq!(choice.report(Carries::Everything, fits, false, now + 3 * S), None);
        choice.set_needs([2200, 1700, 650].map(rate).into());
        assert_eq!(choice.report(Carries::Everything, fits, false, now + 4 * S), Some(0));
    }

    #[test]
    fn a_full_path_gets_what_needs_least_also_where_that_is_the_first() {
        let mut choice = Choice::new([450, 1700].map(rate).into(), Instant::now());
        let now = Instant::now();
        assert_eq!(choice.report(Carries::Only(rate(600)), None, false, now), Some(0));
        assert_eq!(choice.report(Carries::Only(rate(300)), None, false, now + S), None);
    }

    #[test]
    fn one_rendition_is_no_choice() {
        for needs in [vec![], vec![rate(500)]] {
            let mut choice = Choice::new(needs.into(), Instant::now());
            let now = Instant::now();
            assert_eq!(choice.report(Carries::Everything, Some(rate(100_000)), false, now), None);
            assert_eq!(choice.report(Carries::Only(rate(1)), None, false, now), None);
        }
    }
}

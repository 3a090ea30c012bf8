//! Which ports are guessed, and how many: where a sequence stands, and what a search tries.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::{Rng, RngExt};

/// Predicted ports in one window, at most: mappings of others that a busy router makes between two
/// looks at its sequence, and some.
pub const WINDOW: u16 = 20;

/// Ports of each side that are tried together where both choose them in sequence: the one forecast,
/// and two behind it, should others have got in between.
pub const TOGETHER: u16 = 3;

/// How often sequences are tried together.
pub const ATTEMPTS: u32 = 8;

/// How long the other side's forecast is waited for.
pub const FORECAST_TIME: Duration = Duration::from_millis(1500);

/// How long the success of one such try is waited for.
pub const ATTEMPT_TIME: Duration = Duration::from_millis(450);

/// The ports that NATs give: those below are left to servers.
pub const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

/// Sockets that the side with random ports opens in a search.
pub const SEARCH_SOCKETS: u16 = 256;

/// Ports that the other side tries: one of 256 among 64,512 is found by 1,024 tries with 98.3%, by 2,048
/// with 99.97%; see [`search_chance`].
pub const SEARCHED_PORTS: usize = 2048;

/// The ports of a sequence between two that were seen, where they lie close together; else those that
/// follow the first.
pub fn window(before: u16, after: Option<u16>, step: i16) -> Vec<u16> {
    let port = |ahead: u16| before.wrapping_add_signed(step.wrapping_mul(ahead as i16));
    let end = after.and_then(|after| (1..=WINDOW + 1).find(|ahead| port(*ahead) == after));
    let end = end.filter(|end| *end > 1).unwrap_or(WINDOW + 1);
    (1..end).map(port).collect()
}

/// Different ports in no order, for a search to try.
pub fn searched_ports(count: usize, rng: &mut (impl Rng + ?Sized)) -> Vec<u16> {
    let mut seen = BTreeSet::new();
    let any = std::iter::repeat_with(|| rng.random_range(PORTS));
    any.filter(|port| seen.insert(*port)).take(count.min(PORTS.len())).collect()
}

/// The chance that so many tries of random ports find one of so many sockets: 1 − (1 − s/64512)^n.
pub fn search_chance(sockets: u16, tries: usize) -> f64 {
    let missed = 1.0 - f64::from(sockets) / PORTS.len() as f64;
    1.0 - missed.powf(tries as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_window_lies_between_two_looks() {
        assert_eq!(window(5000, Some(5002), 1), [5001]);
        assert_eq!(window(5000, Some(5008), 2), [5002, 5004, 5006]);
        assert_eq!(window(5000, Some(4998), -1), [4999]);
    }

    #[test]
    fn without_a_second_look_the_next_ports_are_meant() {
        for after in [None, Some(5001), Some(9000)] {
            let ports = window(5000, after, 1);
            assert_eq!((ports.len(), ports[0], ports[19]), (20, 5001, 5020));
        }
        assert_eq!(window(65_535, None, 1)[0], 0);
    }

    #[test]
    fn searches_try_different_ports() {
        let mut rng = StdRng::seed_from_u64(1);
        let ports = searched_ports(SEARCHED_PORTS, &mut rng);
        let different: BTreeSet<_> = ports.iter().collect();
        assert_eq!((ports.len(), different.len()), (SEARCHED_PORTS, SEARCHED_PORTS));
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        assert_eq!(searched_ports(usize::MAX, &mut rng).len(), 64_512);
    }

    #[test]
    fn the_odds_are_those_of_the_text() {
        let percent = |tries| (search_chance(SEARCH_SOCKETS, tries) * 10_000.0).round() / 100.0;
        assert_eq!([256, 1024, SEARCHED_PORTS].map(percent), [63.86, 98.29, 99.97]);
    }
}

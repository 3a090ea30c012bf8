//! Which packets were opened before (RFC 3711, section 3.3.2).

/// How far behind the highest index a packet may come: what the network reorders.
const WINDOW: u32 = u64::BITS;

/// The highest index opened, and which of those just below it were.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The index behind the highest; 0 before the first.
    end: u32,
    /// Bit n: the index n + 1 below `end` was opened.
    seen: u64,
}

impl Window {
    /// Whether this index was not opened before, for all that is known.
    pub(super) fn admits(&self, index: u32) -> bool {
        match self.end.checked_sub(index) {
            None | Some(0) => true,
            Some(behind) => behind <= WINDOW && self.seen & bit(behind) == 0,
        }
    }

    /// Notes an index that was admitted and authentic. It has 31 bits.
    pub(super) fn note(&mut self, index: u32) {
        if index >= self.end {
            let ahead = index - self.end + 1;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0);
            self.end = index + 1;
        }
        self.seen |= bit(self.end - index);
    }
}

fn bit(behind: u32) -> u64 {
    1 << (behind - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LAST: u32 = (1 << 31) - 1;

    #[test]
    fn the_edges_of_the_window() {
        let mut window = Window::default();
        assert!(window.admits(0) && window.admits(LAST));
        window.note(100);
        let admitted: Vec<u32> = (30..104).filter(|index| window.admits(*index)).collect();
        let expected: Vec<u32> = (37..100).chain(101..104).collect();
        assert_eq!(admitted, expected);
        window.note(LAST);
        assert!(!window.admits(LAST) && !window.admits(101) && window.admits(LAST - 1));
    }

    proptest! {
        #[test]
        fn nothing_comes_twice(steps in proptest::collection::vec(0u32..200, 1..200), from in 0u32..LAST - 300) {
            let mut window = Window::default();
            let mut opened = BTreeSet::new();
            for index in steps.into_iter().map(|step| from + step) {
                let highest = opened.last().copied();
                let admits = window.admits(index);
                let is_recent = highest.is_none_or(|highest: u32| index + WINDOW > highest);
                prop_assert_eq!(admits, is_recent && !opened.contains(&index));
                if admits {
                    window.note(index);
                    opened.insert(index);
                }
            }
        }
    }
}

//! How much is sent to addresses that have proved nothing: what a peer can make us do to a third
//! party by naming it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Most opening packets to one address before it is proved: enough for every one that is due until
/// the deadline at the usual gaps.
pub const OPENERS_PER_ADDRESS: u32 = 32;

/// Most opening packets of one introduction to all its unproved addresses together.
pub const OPENERS_IN_TOTAL: u32 = 384;

/// Most answers to one address before it is proved. An honest peer sends at most
/// [`OPENERS_PER_ADDRESS`] checks to ours before it has its proof, and afterwards some nominations.
pub const ANSWERS_PER_ADDRESS: u32 = 48;

/// Most answers of one introduction to all its unproved addresses together.
pub const ANSWERS_IN_TOTAL: u32 = 512;

/// What was spent on all addresses of an introduction that are not proved. It remembers an address
/// that was spent on even if the agent forgets it, and so at most as many as the totals.
#[derive(Debug, Default)]
pub(super) struct Budget {
    total: Spent,
    addresses: BTreeMap<SocketAddr, Spent>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    openers: u32,
    answers: u32,
}

impl Budget {
    /// Whether one more opener may go to this unproved address; if so, it is counted.
    pub(super) fn spend_opener(&mut self, address: SocketAddr) -> bool {
        let before = self.addresses.get(&address).copied().unwrap_or_default();
        let left = before.openers < OPENERS_PER_ADDRESS && self.total.openers < OPENERS_IN_TOTAL;
        if left {
            self.addresses.entry(address).or_default().openers += 1;
            self.total.openers += 1;
        }
        left
    }

    /// Whether one more answer may go to this unproved address; if so, it is counted.
    pub(super) fn spend_answer(&mut self, address: SocketAddr) -> bool {
        let before = self.addresses.get(&address).copied().unwrap_or_default();
        let left = before.answers < ANSWERS_PER_ADDRESS && self.total.answers < ANSWERS_IN_TOTAL;
        if left {
            self.addresses.entry(address).or_default().answers += 1;
            self.total.answers += 1;
        }
        left
    }

    /// The address turned out to be the peer's: nothing was spent on anybody else.
    pub(super) fn refund(&mut self, address: SocketAddr) {
        let Spent { openers, answers } = self.addresses.remove(&address).unwrap_or_default();
        self.total.openers -= openers;
        self.total.answers -= answers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share_and_all_have_theirs() {
        let mut budget = Budget::default();
        let address = |last: u8| SocketAddr::from(([192, 0, 2, last], 9));
        let mut openers = 0;
        let mut answers = 0;
        for last in 0..100 {
            let mine = (0..1000).filter(|_| budget.spend_opener(address(last))).count();
            assert!(mine <= OPENERS_PER_ADDRESS as usize);
            openers += mine;
            let mine = (0..1000).filter(|_| budget.spend_answer(address(last))).count();
            assert!(mine <= ANSWERS_PER_ADDRESS as usize);
            answers += mine;
        }
        assert_eq!((openers, answers), (OPENERS_IN_TOTAL as usize, ANSWERS_IN_TOTAL as usize));
        budget.refund(address(0));
        let more = (0..1000).filter(|_| budget.spend_opener(address(200))).count();
        assert_eq!(more, OPENERS_PER_ADDRESS as usize);
    }
}

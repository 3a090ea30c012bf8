//! How external ports are chosen, deduced from the ports of several mappings.

use super::Ports;

/// A mapping that was seen: the port inside and the port outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) inner: u16,
    pub(crate) outer: u16,
}

impl Mapped {
    fn is_preserved(self) -> bool {
        self.inner == self.outer
    }
}

/// Mappings between two of ours that others in the network may have made, as a rule.
const MOST_COMPETING: u16 = 8;

/// A difference beyond this is the end of the range of ports, or chance.
const LARGEST_DIFFERENCE: u16 = 256;

/// Mappings that must agree before they say that a rule is kept.
const ENOUGH_FOR_PARITY: usize = 6;

/// The choice behind mappings that are known to stay with their internal endpoint.
pub(crate) fn of_independent(mappings: &[Mapped]) -> Option<Ports> {
    let preserved = mappings.iter().filter(|mapped| mapped.is_preserved()).count();
    // Where a port is taken, a router that keeps ports takes another one.
    let kept = preserved * 2 >= mappings.len();
    (!mappings.is_empty()).then_some(if kept { Ports::Preserved } else { Ports::Other })
}

/// The choice behind mappings, in the order they were made, that differ with the destination.
pub(crate) fn of_dependent(mappings: &[Mapped]) -> Option<Ports> {
    if !mappings.is_empty() && mappings.iter().all(|mapped| mapped.is_preserved()) {
        return Some(Ports::Preserved);
    }
    let ports = chosen(mappings);
    match step(&ports) {
        Some(step) => Some(Ports::Sequential { step }),
        None => (ports.len() >= 3).then_some(Ports::Random),
    }
}

/// The port that the next new mapping will have.
pub(crate) fn next(mappings: &[Mapped], step: i16) -> Option<u16> {
    chosen(mappings).last().map(|port| port.wrapping_add_signed(step))
}

/// Ports that the NAT chose: some keep the port for the first destination alone.
fn chosen(mappings: &[Mapped]) -> Vec<u16> {
    mappings.iter().filter(|mapped| !mapped.is_preserved()).map(|mapped| mapped.outer).collect()
}

/// Whether even ports stay even and odd ones odd (RFC 4787, section 4.2.2), if that can be told.
pub(crate) fn parity_preserved(mappings: &[Mapped]) -> Option<bool> {
    let keeps = |mapped: &Mapped| mapped.inner % 2 == mapped.outer % 2;
    if !mappings.iter().all(keeps) {
        return Some(false);
    }
    let certain = mappings.iter().all(|mapped| mapped.is_preserved());
    (mappings.len() >= ENOUGH_FOR_PARITY || certain && !mappings.is_empty()).then_some(true)
}

/// The step of ports that follow one another. Mappings of others may lie between ours, so it is the
/// greatest common divisor of the differences; one of four or more may be the end of the range, or
/// packets that overtook each other.
fn step(ports: &[u16]) -> Option<i16> {
    let differences: Vec<i16> =
        ports.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]).cast_signed()).collect();
    let upwards = differences.iter().filter(|difference| **difference > 0).count();
    let down = upwards * 2 < differences.len();
    let mut forward: Vec<u16> = differences
        .iter()
        .filter(|difference| (**difference < 0) == down && **difference != 0)
        .map(|difference| difference.unsigned_abs())
        .filter(|difference| *difference <= LARGEST_DIFFERENCE)
        .collect();
    let strays = if differences.len() >= 4 { 1 } else { 0 };
    if forward.len() < 2 || forward.len() + strays < differences.len() {
        return None;
    }
    forward.sort_unstable();
    let divisor = forward.iter().copied().fold(0, greatest_common_divisor);
    let usual = forward[forward.len() / 2];
    let step = i16::try_from(divisor).ok()?;
    (usual / divisor <= MOST_COMPETING).then_some(if down { -step } else { step })
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_and_chance_is_not_taken_for_one() {
        for (ports, expected) in [
            (&[20_000, 20_001, 20_002][..], Some(1)),
            (&[20_000, 20_002, 20_004, 20_006], Some(2)),
            (&[20_006, 20_004, 20_002], Some(-2)),
            // Others made mappings meanwhile.
            (&[20_000, 20_013, 20_014, 20_017, 20_018], Some(1)),
            (&[20_000, 20_006, 20_008, 20_012, 20_014], Some(2)),
            // The end of the range.
            (&[65_534, 65_535, 1024, 1025, 1026], Some(1)),
            (&[65_535, 0, 1], Some(1)),
            // Two that overtook each other.
            (&[20_000, 20_001, 20_003, 20_002, 20_004, 20_005], Some(1)),
            (&[20_000, 20_001], None),
            (&[20_000, 20_000, 20_000, 20_000], None),
            (&[1025, 60_000, 33_333, 2000], None),
            // A small block of ports, taken at random.
            (&[20_010, 20_050, 20_003, 20_033, 20_020], None),
            (&[20_001, 20_030, 20_064, 20_101, 20_150], None),
            (&[], None),
        ] {
            assert_eq!(step(ports), expected, "{ports:?}");
        }
    }

    fn mapped(pairs: &[(u16, u16)]) -> Vec<Mapped> {
        pairs.iter().map(|&(inner, outer)| Mapped { inner, outer }).collect()
    }

    #[test]
    fn ports_of_independent_mappings_are_kept_or_not() {
        for (pairs, expected) in [
            (&[(5, 5), (6, 6)][..], Some(Ports::Preserved)),
            (&[(5, 5), (6, 900), (7, 7)], Some(Ports::Preserved)),
            (&[(5, 901), (6, 900), (7, 300)], Some(Ports::Other)),
            (&[], None),
        ] {
            assert_eq!(of_independent(&mapped(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn ports_of_dependent_mappings_follow_a_rule_or_none() {
        let sequential = Some(Ports::Sequential { step: 1 });
        for (pairs, expected, next_port) in [
            (&[(5, 901), (5, 902), (6, 903)][..], sequential, Some(904)),
            // The first destination keeps its port.
            (&[(5, 5), (5, 901), (5, 902), (5, 903), (6, 6)], sequential, Some(904)),
            (&[(5, 901), (5, 17_000), (6, 300)], Some(Ports::Random), None),
            // Another external address each time.
            (&[(5, 5), (5, 5), (6, 6)], Some(Ports::Preserved), None),
            (&[(5, 901), (5, 30_000)], None, None),
        ] {
            let mappings = mapped(pairs);
            assert_eq!(of_dependent(&mappings), expected, "{pairs:?}");
            let found = match expected {
                Some(Ports::Sequential { step }) => next(&mappings, step),
                _ => None,
            };
            assert_eq!(found, next_port, "{pairs:?}");
        }
    }

    #[test]
    fn parity_needs_more_than_chance() {
        let kept = mapped(&[(5, 901), (6, 300), (7, 11), (8, 12), (9, 77), (10, 500)]);
        assert_eq!(parity_preserved(&kept), Some(true));
        assert_eq!(parity_preserved(&kept[..5]), None);
        assert_eq!(parity_preserved(&mapped(&[(5, 5)])), Some(true));
        assert_eq!(parity_preserved(&mapped(&[(5, 5), (6, 901)])), Some(false));
        assert_eq!(parity_preserved(&[]), None);
    }
}

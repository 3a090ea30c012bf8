//! How many packets are sent so that as many arrive as are lacking.

/// Most packets that are ever sent for one request about one block.
const MOST: usize = 64;

/// What repair may take, as a share of the media, by share of packets lost. Resending everything until it
/// arrives takes p/(1 - p); where packets are many, half as much again lets the last round be the last.
const ALLOWANCES: [(f64, f64); 6] =
    [(0.0, 0.012), (0.01, 0.027), (0.1, 0.167), (0.2, 0.36), (0.3, 0.575), (0.5, 1.3)];

/// What repair may take for this share of loss, as a share of the media.
pub fn allowance(loss: f64) -> f64 {
    let last = ALLOWANCES[ALLOWANCES.len() - 1];
    let segment = ALLOWANCES.windows(2).find(|pair| loss < pair[1].0);
    segment.map_or(last.1, |pair| {
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        low + (high - low) * ((loss - from) / (to - from)).clamp(0.0, 1.0)
    })
}

/// The risk to take that too few arrive, if `rounds_left` further requests fit before the deadline, and
/// of what may be spent this share is left (0 to 1).
pub fn risk(rounds_left: u8, left: f64) -> f64 {
    let left = left.clamp(0.0, 1.0);
    let digits = match rounds_left {
        0 => 0.3 + 6.7 * left,
        1 => 4.5 * left,
        // What is missing then can be asked for again.
        _ => 0.0,
    };
    10f64.powf(-digits)
}

/// The least number of packets of which at least `lacking` arrive but for this `risk`, where each is lost
/// with this probability, independently. At least `lacking`.
pub fn packets(lacking: usize, loss: f64, risk: f64) -> usize {
    let loss = loss.clamp(0.0, 0.9);
    if lacking == 0 {
        return 0;
    }
    // The last of them arrives as packet n with the probability C(n-1, lacking-1) (1-p)^lacking p^(n-lacking).
    let mut term = (1.0 - loss).powi(lacking as i32);
    let mut arrived = term;
    let mut sent = lacking;
    while 1.0 - arrived > risk && sent < MOST.max(lacking) {
        term *= loss * sent as f64 / (sent + 1 - lacking) as f64;
        arrived += term;
        sent += 1;
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers() {
        assert_eq!(packets(0, 0.3, 1e-6), 0);
        assert_eq!(packets(5, 0.0, 1e-9), 5);
        assert_eq!(packets(5, 0.3, 1.0), 5, "all that is asked for, whatever the risk");
        // 0.1^6 = 1e-6.
        assert_eq!(packets(1, 0.1, 1.1e-6), 6);
        assert_eq!(packets(1, 0.1, 0.9e-6), 7);
        // Of 8 packets at 30%, fewer than 4 arrive with probability 0.058 (binomial).
        assert_eq!(packets(4, 0.3, 0.058), 8);
        assert_eq!(packets(4, 0.3, 0.057), 9);
        assert_eq!(packets(100, 0.9, 1e-9), 100);
    }

    #[test]
    fn what_may_be_spent() {
        for (loss, bound) in [(0.01, 0.03), (0.1, 0.18), (0.2, 0.38), (0.3, 0.6)] {
            let least = loss / (1.0 - loss);
            assert!(allowance(loss) < bound && allowance(loss) > least, "{loss}");
        }
        assert!(risk(0, 1.0) < 2e-7 && risk(0, 0.0) > 0.4);
        assert_eq!(risk(2, 1.0), 1.0);
    }
}

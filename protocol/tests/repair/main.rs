//! What repair achieves, in simulation: real channel, real receiver, real bytes, simulated network and time.
//!
//! `PACKETS` says how many packets each measured case sends.

mod network;
mod simulation;

use std::time::Duration;

use network::{Impairment, Loss};
use punchcast_protocol::feedback::Totals;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use simulation::{Outcome, Setting, run};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn packets() -> u64 {
    std::env::var("PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

/// 4 Mbit/s of pictures over a path that loses the same both ways.
fn setting(rtt: Duration, latency: Duration, loss: Loss) -> Setting {
    let impairment = Impairment { loss, ..Impairment::clean(rtt) };
    Setting {
        seed: 1,
        there: impairment,
        back: impairment,
        rtt,
        latency,
        packets: packets(),
        bits_per_second: 4_000_000,
        framerate: 30,
        has_sound: false,
    }
}

fn measured(name: &str, setting: Setting) -> Outcome {
    let outcome = run(setting);
    println!(
        "{name}: residual {:.2e}, at first {}, overhead {:.1}%, {} frames lost, {} packets, {} lost, {} sent again, \
         {} repair packets, {} wishes, {:?}",
        outcome.residual(),
        outcome.unrecovered_at_first,
        outcome.overhead() * 100.0,
        outcome.frames_lost,
        outcome.sent,
        outcome.media_lost,
        outcome.retransmitted,
        outcome.repair_packets,
        outcome.wishes,
        outcome.totals
    );
    outcome
}

/// Whether the viewer's count of lost packets is the network's, within a tenth of a percentage point.
fn counts_loss_truthfully(outcome: &Outcome) {
    let share = |lost: u64| lost as f64 / outcome.sent as f64;
    let (counted, true_loss) = (share(outcome.totals.lost), share(outcome.media_lost));
    // Of few packets, one that was lost with its answers counts.
    let tolerance = 0.001 + 2.0 / outcome.sent as f64;
    assert!((counted - true_loss).abs() < tolerance, "{counted} counted, {true_loss} lost");
}

#[test]
fn independent_loss_both_ways() {
    // Loss, latency, and the most residual and overhead.
    let cases = [
        (0.01, 200, 0.0, 0.03),
        (0.1, 200, 1e-6, 0.18),
        (0.2, 200, 1e-5, 0.38),
        (0.3, 300, 1e-5, 0.6),
    ];
    for (loss, latency, most_residual, most_overhead) in cases {
        let setting = setting(ms(50), ms(latency), Loss::Independent(loss));
        let outcome = measured(&format!("{loss}"), setting);
        // A small sample may hold one more than its share.
        let most = (most_residual * outcome.sent as f64).floor() + f64::from(most_residual > 0.0);
        assert!(outcome.residual() * outcome.sent as f64 <= most + 0.5, "{}", outcome.residual());
        assert!(outcome.unrecovered_at_first <= 10, "{}", outcome.unrecovered_at_first);
        assert!(outcome.overhead() <= most_overhead, "{}", outcome.overhead());
        counts_loss_truthfully(&outcome);
    }
}

#[test]
fn bursts_and_outages() {
    let burst = setting(ms(50), ms(300), Loss::Burst(20, 200));
    let outcome = measured("20 of each 200", burst);
    assert_eq!(outcome.frames_lost, 0);
    counts_loss_truthfully(&outcome);
    let outage = setting(ms(50), ms(400), Loss::Outage(ms(100), ms(5000)));
    let outcome = measured("100 ms of each 5 s", outage);
    assert_eq!(outcome.frames_lost, 0);
    counts_loss_truthfully(&outcome);
}

#[test]
fn sound_is_repaired_like_pictures() {
    let pictures = setting(ms(50), ms(200), Loss::Independent(0.1));
    let outcome = measured("sound", Setting { has_sound: true, ..pictures });
    assert!(outcome.residual() * outcome.sent as f64 <= 1.5, "{}", outcome.residual());
    counts_loss_truthfully(&outcome);
}

/// Few packets make a picture here, so that there is little to choose from when one of them is rebuilt.
#[test]
fn a_thin_stream_is_repaired_like_a_thick_one() {
    let thick = setting(ms(50), ms(200), Loss::Independent(0.2));
    let thin = Setting { bits_per_second: 1_600_000, framerate: 25, has_sound: true, ..thick };
    let outcome = measured("thin", thin);
    let bound = if packets() >= 1_000_000 { 2e-5 } else { 5e-5 };
    assert!(outcome.residual() <= bound, "{}", outcome.residual());
}

#[test]
fn jitter_and_reordering_without_loss() {
    let clean = setting(ms(50), ms(200), Loss::Independent(0.0));
    for (name, jitter, reordered) in
        [("jitter", 30, 0.0), ("reordering", 0, 0.05), ("both", 30, 0.05)]
    {
        let there = Impairment { jitter: ms(jitter), reordered, ..clean.there };
        let outcome = measured(name, Setting { there, back: there, ..clean });
        assert_eq!(outcome.frames_lost, 0);
        counts_loss_truthfully(&outcome);
        let spurious = (outcome.retransmitted + outcome.repair_packets) as f64;
        assert!(spurious <= 0.01 * outcome.sent as f64, "{spurious} sent again");
    }
}

#[test]
fn flipped_bits_and_duplicates() {
    let clean = setting(ms(50), ms(200), Loss::Independent(0.01));
    let there = Impairment { flipped: 0.01, duplicates: 0.1, ..clean.there };
    // What viewers say is authenticated: a flipped bit loses it.
    let back = Impairment { loss: Loss::Independent(0.02), duplicates: 0.1, ..clean.back };
    let outcome = measured("flipped bits", Setting { there, back, ..clean });
    assert_eq!(outcome.frames_lost, 0);
    assert!(outcome.totals.corrupt > 0 && outcome.totals.duplicates > 0);
}

/// Thousands of short runs over every kind of path: what the simulation asserts on its way holds, and all
/// ends.
#[test]
fn whatever_the_network_does() {
    let mut rng = StdRng::seed_from_u64(5);
    for seed in 0..2_000 {
        let rtt = ms(rng.random_range(1..400));
        let loss = match rng.random_range(0..4) {
            0 => Loss::Independent(rng.random_range(0.0..0.9)),
            1 => Loss::Burst(rng.random_range(1..50), rng.random_range(50..200)),
            2 => Loss::Outage(ms(rng.random_range(1..400)), ms(rng.random_range(400..1000))),
            _ => Loss::Gilbert(rng.random_range(0.0..0.2), rng.random_range(0.01..1.0)),
        };
        let there = Impairment {
            delay: rtt / 2,
            jitter: ms(rng.random_range(0..30)),
            loss,
            duplicates: rng.random_range(0.0..0.3),
            reordered: rng.random_range(0.0..0.3),
            flipped: rng.random_range(0.0..0.05),
        };
        let setting = Setting {
            seed,
            there,
            back: Impairment { flipped: 0.0, ..there },
            rtt,
            latency: ms(rng.random_range(1..1000)),
            packets: 300,
            bits_per_second: rng.random_range(100_000..20_000_000),
            framerate: rng.random_range(5..60),
            has_sound: rng.random(),
        };
        let outcome = run(setting);
        let Totals { received, lost, recovered_nack, recovered_fec, unrecovered, late, .. } =
            outcome.totals;
        let what = format!("seed {seed}, {setting:?}: {outcome:?}");
        assert!(received <= outcome.sent, "{what}");
        assert_eq!(lost, recovered_nack + recovered_fec + unrecovered, "{what}");
        assert!(late <= unrecovered, "{what}");
        // A viewer is sent the stream's rate again at most, as it was lately, or half a megabit where that is
        // more, and what a quarter of a second holds. Its first rate is that of its first keyframe.
        let rate = (2 * setting.bits_per_second).max(500_000) / 8;
        let most = rate * (outcome.seconds + 2);
        assert!(outcome.repair_bytes <= most, "{what}");
    }
}

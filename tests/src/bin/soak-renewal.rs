//! Lets routers forget and change under running streams, on both sides and of every kind, again and
//! again, and then lets a stream run behind routers that forget whoever is silent for 10 s.
//!
//! `soak-renewal [OUTAGES [MINUTES]]` (100, 10) prints each outage and a summary, and ends with status 1
//! where one was too long or was not counted, or where the long stream lost anything.

use std::{collections::BTreeMap, env, process::ExitCode, time::Duration};

use anyhow::Context;
use tests::{
    lab::Nat,
    renewal::{MISHAPS, Outage, Scene},
    stage::count,
};

const OUTBOUND_REFRESH: Nat = Nat::OutboundRefreshOnly { timeout: Duration::from_secs(10) };

/// Behind each of these is a broadcaster in turn, and a viewer behind one of each.
const KINDS: [Nat; 4] =
    [Nat::PortRestricted, Nat::PortRestrictedOtherPort, Nat::NoDrop, OUTBOUND_REFRESH];

fn main() -> anyhow::Result<ExitCode> {
    let numbers: Vec<usize> = env::args()
        .skip(1)
        .map(|argument| argument.parse())
        .collect::<Result<_, _>>()
        .context("usage: soak-renewal [OUTAGES [MINUTES]]")?;
    let wanted = numbers.first().copied().unwrap_or(100);
    let minutes = numbers.get(1).copied().unwrap_or(10);

    let mut outages = Vec::new();
    for home in KINDS.into_iter().cycle() {
        if outages.len() >= wanted {
            break;
        }
        let scene = Scene::start(home, &KINDS)?;
        for (side, mishap) in MISHAPS {
            let struck = scene.strike(side, mishap)?;
            struck.iter().for_each(|outage| println!("{outage}"));
            outages.extend(struck);
        }
        scene.check_viewers()?;
    }
    summarize(&outages);
    let lost = long_run(minutes as u64)?;
    let well = outages.iter().filter(|outage| outage.is_well()).count();
    println!("{well} of {} outages short and counted; {lost} packets lost", outages.len());
    Ok(if well == outages.len() && lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each case: where, what, and whether a rebind is needed.
fn summarize(outages: &[Outage]) {
    let mut cases: BTreeMap<_, Vec<&Outage>> = BTreeMap::new();
    for outage in outages {
        cases.entry((outage.side, outage.mishap, outage.limit())).or_default().push(outage);
    }
    println!(
        "{:12} {:11} {:>6} {:>5} {:>7} {:>7} {:>7}",
        "side", "mishap", "limit", "times", "median", "p95", "max"
    );
    for ((side, mishap, limit), outages) in cases {
        let mut times: Vec<u128> = outages.iter().map(|outage| outage.lasted.as_millis()).collect();
        times.sort_unstable();
        let share = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        println!(
            "{:12} {:11} {:>4} s {:>5} {:>4} ms {:>4} ms {:>4} ms",
            format!("{side:?}"),
            format!("{mishap:?}"),
            limit.as_secs(),
            times.len(),
            share(50),
            share(95),
            share(100)
        );
    }
}

/// Packets lost in so many minutes behind routers that only outbound packets keep open.
fn long_run(minutes: u64) -> anyhow::Result<u64> {
    if minutes == 0 {
        return Ok(0);
    }
    let scene = Scene::start(OUTBOUND_REFRESH, &[OUTBOUND_REFRESH])?;
    scene.look_on(Duration::from_secs(60 * minutes));
    let lost = scene.latest().iter().map(|stats| count(stats, "packets_lost")).sum();
    println!("{minutes} minutes behind 10 s outbound refresh: {:?}", scene.latest());
    scene.check_viewers()?;
    Ok(lost)
}

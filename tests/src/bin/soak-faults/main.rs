//! Faults of every kind, each again and again at another moment: what is killed, stands still, finds no room, another
//! clock or another network recovers or ends in words, and nobody else notices.
//!
//! `soak-faults [SEEDS [CASE…]]` (20, all) prints each case with the longest recovery, and ends with status 1 where one
//! did not pass. `soak-faults list` names the cases. `TOGETHER` (1) scenes stand at a time: each has its own lab.

mod media;
mod network;
mod programs;
mod scene;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tests::lab::{Impairment, Loss, Reorder};

use media::{another_encoder_killed, full_disk, unplugged};
use network::{Mover, hard_path, moves_to_ipv6, mtu};
use programs::{clocks, descriptors, hangs, killed, stopped};
use scene::Who;

/// Within this all goes on, where it can.
const RECOVERY: Duration = Duration::from_secs(2);

/// A case: how it is called, and what it does. It tells how long the recovery took, where one is due.
type Case = (&'static str, fn(&mut StdRng) -> Result<Option<Duration>>);

const CASES: &[Case] = &[
    ("rendezvous killed", |rng| killed(rng, Who::Rendezvous)),
    ("broadcaster killed", |rng| killed(rng, Who::Broadcaster)),
    ("viewer killed while recording", |rng| killed(rng, Who::Viewer)),
    ("decoder killed", |rng| killed(rng, Who::Decoder)),
    ("rendezvous stopped for 1 s", |rng| stopped(rng, Who::Rendezvous, 1)),
    ("rendezvous stopped for 10 s", |rng| stopped(rng, Who::Rendezvous, 10)),
    ("rendezvous stopped for 60 s", |rng| stopped(rng, Who::Rendezvous, 60)),
    ("broadcaster stopped for 1 s", |rng| stopped(rng, Who::Broadcaster, 1)),
    ("broadcaster stopped for 10 s", |rng| stopped(rng, Who::Broadcaster, 10)),
    ("broadcaster stopped for 60 s", |rng| stopped(rng, Who::Broadcaster, 60)),
    ("viewer stopped for 1 s", |rng| stopped(rng, Who::Viewer, 1)),
    ("viewer stopped for 10 s", |rng| stopped(rng, Who::Viewer, 10)),
    ("viewer stopped for 60 s", |rng| stopped(rng, Who::Viewer, 60)),
    ("decoder stopped for 1 s", |rng| stopped(rng, Who::Decoder, 1)),
    ("decoder stopped for 10 s", |rng| stopped(rng, Who::Decoder, 10)),
    ("decoder stopped for 60 s", |rng| stopped(rng, Who::Decoder, 60)),
    ("clocks an hour ahead", |rng| clocks(rng, "+3600")),
    ("clocks an hour back", |rng| clocks(rng, "-3600")),
    ("clocks ten years ahead", |rng| clocks(rng, "+315360000")),
    ("clocks ten years back", |rng| clocks(rng, "-315360000")),
    ("disk full while recording", full_disk),
    ("source unplugged and back", unplugged),
    ("encoder killed", |rng| killed(rng, Who::Encoder)),
    ("encoder stopped for 1 s", |rng| stopped(rng, Who::Encoder, 1)),
    ("encoder hangs", hangs),
    ("encoder of another program killed", another_encoder_killed),
    ("descriptors used up", descriptors),
    ("MTU of 1280", mtu),
    ("viewer moves to IPv6", |rng| moves_to_ipv6(rng, Mover::Viewer)),
    ("broadcaster moves to IPv6", |rng| moves_to_ipv6(rng, Mover::Broadcaster)),
    ("a tenth twice", |rng| hard_path(rng, Impairment { duplicate: 0.1, ..Impairment::default() })),
    ("overtaken by fifty", |rng| {
        // 50 packets at 150 a second.
        let reorder = Some(Reorder { share: 0.05, hold: Duration::from_millis(330) });
        hard_path(rng, Impairment { reorder, ..Impairment::default() })
    }),
    ("a hundredth with a bit flipped", |rng| {
        hard_path(rng, Impairment { bit_flips: 0.01, ..Impairment::default() })
    }),
    ("all of it, and a tenth lost", |rng| {
        let loss = Loss::Independent(0.1);
        let (duplicate, bit_flips) = (0.1, 0.01);
        hard_path(rng, Impairment { loss, duplicate, bit_flips, ..Impairment::default() })
    }),
];

fn main() -> Result<ExitCode> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "list") {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let seeds: u64 = match arguments.first() {
        Some(_) => arguments.remove(0).parse().context("usage: soak-faults [SEEDS [CASE…]]")?,
        None => 20,
    };
    let together: usize = match env::var("TOGETHER") {
        Ok(text) => text.parse().context("TOGETHER is how many scenes stand at a time")?,
        Err(_) => 1,
    };
    ensure!(together > 0, "TOGETHER is 1 at least");
    for word in &arguments {
        let is_known = CASES.iter().any(|(name, _)| name.contains(&**word));
        ensure!(is_known, "no case is called `{word}`; see `soak-faults list`");
    }
    let is_wanted =
        |name: &str| arguments.is_empty() || arguments.iter().any(|word| name.contains(&**word));
    let mut failed = 0;
    for case in CASES.iter().filter(|(name, _)| is_wanted(name)) {
        let recoveries = run(case, seeds, together);
        let passed = recoveries.len() as u64;
        failed += u64::from(passed < seeds);
        let longest = recoveries.into_iter().max().flatten();
        let longest = longest.map_or("-".to_owned(), |time| format!("{time:.2?}"));
        println!("{:34} {passed:>3} of {seeds:<3} longest recovery {longest}", case.0);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The recovery of each seed that passed.
fn run((name, case): &Case, seeds: u64, together: usize) -> Vec<Option<Duration>> {
    let next = AtomicU64::new(0);
    let take_turns = || {
        let mut recoveries = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return recoveries;
            }
            let mut rng = StdRng::seed_from_u64(seed);
            match catch_unwind(AssertUnwindSafe(|| case(&mut rng))) {
                Ok(Ok(recovery)) if recovery <= Some(RECOVERY) => recoveries.push(recovery),
                Ok(Ok(recovery)) => {
                    eprintln!("{name}, seed {seed}: {recovery:?} until all went on")
                }
                Ok(Err(error)) => eprintln!("{name}, seed {seed}: {error:#}"),
                Err(_) => eprintln!("{name}, seed {seed}: see above"),
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..together).map(|_| scope.spawn(take_turns)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("panics are caught")).collect()
    })
}

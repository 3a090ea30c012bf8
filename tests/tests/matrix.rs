//! Each kind of NAT at least once on each side: direct where theory allows it, relayed elsewhere. The
//! whole matrix, with many tries, is `make nat`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::lab::Result;
use tests::matrix::{Expect, Kind, Profile, Record, Scene};

/// Where UDP is blocked the viewer must say so by then.
const CLEAR_FAILURE_MS: f64 = 5000.0;

/// `no path`, in the contract.
const NO_PATH: i32 = 3;

/// Times that chance may still be against a search or a prediction, among all that are tried here.
const MISSES: usize = 1;

/// What each broadcaster is met from: everything from a usual home router, and by those kinds that are
/// hard to reach from everywhere.
const PAIRS: [(&str, &[&str]); 13] = [
    (
        "restricted",
        &[
            "open",
            "firewall",
            "address-only",
            "address-only-filtered",
            "full",
            "full-other",
            "by-address",
            "by-address-other",
            "restricted",
            "restricted-other",
            "theft",
            "two-layers",
            "sequential",
            "sequential-2",
            "address-dependent",
            "random",
            "blocked",
        ],
    ),
    ("open", &["random"]),
    ("firewall", &["restricted-other"]),
    ("address-only", &["sequential"]),
    ("address-only-filtered", &["two-layers"]),
    ("full", &["random"]),
    ("full-other", &["address-dependent"]),
    ("by-address", &["sequential-2"]),
    ("by-address-other", &["random"]),
    ("restricted-other", &["restricted", "sequential"]),
    ("theft", &["restricted", "theft"]),
    ("two-layers", &["two-layers"]),
    ("random", &["open", "restricted", "sequential", "random"]),
];

/// Their own list, as a second lab plays it meanwhile.
const MORE_PAIRS: [(&str, &[&str]); 3] = [
    ("sequential", &["restricted", "sequential", "random"]),
    ("sequential-2", &["restricted-other", "sequential-2"]),
    ("address-dependent", &["full", "restricted", "random"]),
];

#[test]
fn every_kind_of_nat_is_got_through_or_around() -> Result<()> {
    let began = Instant::now();
    let records = Mutex::new(Vec::new());
    let seed = std::env::var("LAB_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let play = |seed, pairs: &[(&str, &[&str])]| -> Result<()> {
        let kind = |name| Kind::named(name).expect("a kind");
        let mut scene = Scene::new(seed, Profile::Quiet)?;
        for (broadcaster, viewers) in pairs {
            scene.broadcast(kind(broadcaster))?;
            for viewer in *viewers {
                let record = scene.attempt(kind(viewer), 0)?;
                let as_asked = Expect::of(kind(broadcaster), kind(viewer)).allows(&record);
                let logs = if as_asked { String::new() } else { scene.logs() };
                records.lock().expect("no worker panicked").push((record, logs));
            }
            scene.end()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| play(seed.wrapping_add(1), &MORE_PAIRS));
        play(seed, &PAIRS)?;
        other.join().expect("no worker panics")
    })?;
    let records = records.into_inner().expect("no worker panicked");
    println!("{} pairs in {:?}", records.len(), began.elapsed());
    check(&records);
    assert!(began.elapsed() < Duration::from_secs(240), "{:?}", began.elapsed());
    Ok(())
}

fn check(records: &[(Record, String)]) {
    let mut wrong = Vec::new();
    let mut missed = 0;
    for (record, logs) in records {
        let kind = |name: &str| Kind::named(name).expect("a kind");
        let expect = Expect::of(kind(&record.broadcaster), kind(&record.viewer));
        println!(
            "{} × {}: {expect:?}: {:?} after {:?} ms, direct after {:?} ms",
            record.broadcaster, record.viewer, record.first, record.open_ms, record.direct_ms
        );
        if expect.may_improve() && !record.is_direct() {
            missed += 1;
        }
        let said_so = record.exit == Some(NO_PATH)
            && record.ended_ms.is_some_and(|ms| ms <= CLEAR_FAILURE_MS);
        if !expect.allows(record) || (expect == Expect::Nothing && !said_so) {
            wrong.push(format!("{expect:?}: {record:?}\n{logs}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} pairs:\n{}", wrong.len(), records.len(), wrong.join("\n"));
    assert!(missed <= MISSES, "{missed} predictions and searches found nothing");
}

//! The fuzz targets of `protocol/fuzz` on stable: every committed corpus file, and seeded changes of
//! them. `PUNCHCAST_SEED` sets the seed, `PUNCHCAST_RUNS` how many changed inputs each target gets.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

#[path = "../fuzz/src/targets/mod.rs"]
pub mod targets;

/// Changed inputs for each target, and the time after which no more are made.
const RUNS: u64 = 3000;
const LONGEST: Duration = Duration::from_secs(2);

/// Longest input, in bytes: a datagram, and enough choices for a long scene.
const MOST_BYTES: usize = 1500;

#[test]
fn agent() {
    replay("agent");
}

#[test]
fn channel() {
    replay("channel");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn demux() {
    replay("demux");
}

#[test]
fn feedback() {
    replay("feedback");
}

#[test]
fn link() {
    replay("link");
}

#[test]
fn reception() {
    replay("reception");
}

#[test]
fn rtp() {
    replay("rtp");
}

#[test]
fn seal() {
    replay("seal");
}

#[test]
fn signalling() {
    replay("signalling");
}

#[test]
fn stun() {
    replay("stun");
}

#[test]
fn text() {
    replay("text");
}

#[test]
fn timeline() {
    replay("timeline");
}

/// `paths` needs the transport crate, and runs under the fuzzer only.
#[test]
fn no_target_is_left_out() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz_folder().join(folder)).expect("committed");
        let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
        entries.filter_map(|entry| stem(entry.expect("readable").path())).collect()
    };
    let mut known: BTreeSet<_> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.insert("paths".to_owned());
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
}

fn replay(name: &str) {
    let (_, body) = targets::ALL.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        attempt(*body, bytes, &format!("{name}: {}", path.display()));
    }

    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PUNCHCAST_SEED").unwrap_or(1);
    let runs = number("PUNCHCAST_RUNS");
    let ends_at = Instant::now() + LONGEST;
    let mut rng = StdRng::seed_from_u64(seed);
    for run in 0..runs.unwrap_or(RUNS) {
        let bytes = changed(&corpus, &mut rng);
        attempt(*body, &bytes, &format!("{name}: PUNCHCAST_SEED={seed}, run {run}, {bytes:02x?}"));
        if runs.is_none() && Instant::now() >= ends_at {
            break;
        }
    }
}

/// Runs a body, and says on which input it failed.
fn attempt(body: targets::Body, bytes: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        println!("failed on {what}");
        resume_unwind(panic);
    }
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A target's committed inputs, in one order everywhere.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(fuzz_folder().join("corpus").join(name)).expect("committed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no corpus");
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

/// One input, or the front of one and the back of another, with some bytes changed.
fn changed(corpus: &[(PathBuf, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| corpus[rng.random_range(0..corpus.len())].1.clone();
    let mut bytes = pick(rng);
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => {
                let other = pick(rng);
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            2 => bytes.insert(at, rng.random()),
            3 => {
                let mut more = [0; 24];
                rng.fill_bytes(&mut more);
                bytes.splice(at..at, more);
            }
            4 if at < bytes.len() => bytes[at] = *[0, 0x7f, 0x80, 0xff].get(at % 4).expect("four"),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.push(rng.random()),
        }
    }
    bytes.truncate(MOST_BYTES);
    bytes
}

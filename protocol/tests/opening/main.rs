//! Agents of both sides on a simulated network of NATs, with an oracle that knows what is possible.
//!
//! Runs are deterministic. `PUNCHCAST_SEED` sets the seed (a failure prints it), `PUNCHCAST_RUNS`
//! multiplies the number of runs.

#![expect(clippy::unwrap_used, reason = "tests")]

mod duties;
mod effort;
mod efforts;
mod keeping;
mod media;
mod nat;
mod net;
mod opens;
mod oracle;
mod renewing;

/// The seed of this run of the tests.
fn seed() -> u64 {
    let seed = std::env::var("PUNCHCAST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("PUNCHCAST_SEED={seed}");
    seed
}

/// How many runs to make where `usual` are.
fn runs(usual: u64) -> u64 {
    let times =
        std::env::var("PUNCHCAST_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    usual * times
}

#!/bin/bash
# The long runs: every fuzz target for a minute (or for the seconds given), which lines of the wire code
# tests run, ten million simulated packets on each lossy path, five minutes of real programs on them, a
# removal among a thousand viewers, a million hostile messages, routers that forget and change under running
# streams, a stored file that stands still for an hour, an hour of viewers that join and leave each second,
# every fault twenty times, ten minutes from senders to every output, and the packages on a fresh Debian and in a
# container.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test soak
scripts/fuzz.sh "$@"
scripts/coverage.sh

say "repairing ten million packets in simulation"
PACKETS=10000000 cargo test --locked --release --package punchcast-protocol --test repair -- --nocapture

say "a hundred million packets of an insider"
INSIDER_PACKETS=100000000 cargo test --locked --release --package punchcast-protocol --test forgery -- --nocapture

say "building"
cargo build --locked --workspace --bins
say "five minutes on lossy links"
WATCH_SECONDS=300 cargo test --locked --package tests --test repair -- --nocapture
say "a viewer is sent away among a thousand, at a tenth lost"
REMOVAL_VIEWERS=1000 cargo test --locked --package tests --test removal
say "a million messages of hostile viewers"
HOSTILE_MESSAGES=1000000 cargo test --locked --package tests --test hostile -- --nocapture
say "routers that forget and change under running streams"
cargo run --locked --package tests --bin soak-renewal
say "an hour's pause in a stored file"
PAUSE_SECONDS=3600 cargo test --locked --package tests --test library a_viewer_seeks -- --nocapture
say "an hour of viewers that join and leave"
cargo run --locked --package tests --bin soak-joins
say "every fault, twenty times each"
cargo run --locked --package tests --bin soak-faults
say "ten minutes pushed by RTMP, SRT and RTP, into every output"
PUSHED_SECONDS=600 cargo test --locked --package tests --test pushed -- --nocapture
say "the packages on a fresh Debian, and in a container"
scripts/deb.sh
scripts/check-deb.sh
scripts/check-container.sh

#!/bin/bash
# The long runs: every fuzz target for a minute (or for the seconds given), ten million simulated packets
# on each lossy path, five minutes of real programs on them, and routers that forget and change under running
# streams.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test
scripts/fuzz.sh "$@"

say "repairing ten million packets in simulation"
PACKETS=10000000 cargo test --locked --release --package punchcast-protocol --test repair -- --nocapture

say "building"
cargo build --locked --workspace --bins
say "five minutes on lossy links"
WATCH_SECONDS=300 cargo test --locked --package tests --test repair -- --nocapture
say "routers that forget and change under running streams"
cargo run --locked --package tests --bin soak-renewal

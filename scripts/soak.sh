#!/bin/bash
# The long runs: every fuzz target for a minute (or for the seconds given), and routers that forget
# and change under running streams.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test
scripts/fuzz.sh "$@"

say "building"
cargo build --locked --workspace --bins
say "routers that forget and change under running streams"
cargo run --locked --package tests --bin soak-renewal

#!/bin/bash
# Measures repair beside SRT and RIST, writes target/bench/repair.csv, and draws it into docs/images.
# Arguments go to bench-repair.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test bench
cargo build --locked --release --workspace --bins
cargo run --locked --release --package tests --bin bench-repair -- "$@"
scripts/plot-repair.py target/bench/repair.csv docs/images

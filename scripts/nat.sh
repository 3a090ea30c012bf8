#!/bin/bash
# Tries which paths open between which NATs, and writes the tables of docs/nat.md.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test
cargo build --locked --release --workspace --bins
cargo run --locked --release --package tests --bin nat-matrix -- "$@"

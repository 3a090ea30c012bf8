#!/bin/bash
# Measures what sending costs, beside other ways of sending. Prints a table.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test
scripts/bench-peers.sh
cargo run --locked --release --package tests --bin bench-fanout -- "$@"

#!/bin/bash
# Measures what sending costs, beside other ways of sending, what a whole broadcast and playouts of a stored file
# cost, how soon viewers that join have a picture, how fast files are copied, and how late a picture is on the screen. Prints tables. Arguments go to bench-fanout; with BROADCAST set, what
# it holds goes to bench-broadcast.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test
scripts/bench-peers.sh
cargo build --locked --release --workspace --bins
cargo run --locked --release --package tests --bin bench-fanout -- "$@"
read -r -a broadcast <<<"${BROADCAST:-}"
cargo run --locked --release --package tests --bin bench-broadcast -- \
    --save target/bench/broadcast.json "${broadcast[@]}"
scripts/plot-fanout.py target/bench/broadcast.json docs/images
cargo run --locked --release --package tests --bin bench-joining
cargo run --locked --release --package tests --bin bench-fetch
cargo run --locked --release --package tests --bin bench-latency

#!/bin/bash
# Installs what is missing and runs every test. The runner's own summary comes last.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test

# The lab's tests make networks of their own, without root where the kernel lets them.
if ! unshare --user --map-root-user --net true; then
    fail "user namespaces are closed here; on Ubuntu, as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
fi

say "building"
cargo build --locked --workspace --all-targets
# What was built is still on its way to the disk: programs that start meanwhile stand still for seconds.
sync

say "testing the examples in the documentation"
cargo test --locked --workspace --doc

say "testing"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --workspace --no-fail-fast
else
    cargo test --locked --workspace --all-targets --no-fail-fast
fi

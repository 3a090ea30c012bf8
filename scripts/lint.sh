#!/bin/bash
# Everything that CI checks besides tests.
source "$(dirname "$0")/common.sh"

scripts/install.sh build lint

say "format"
cargo fmt --all --check

say "what the protocol crate depends on"
scripts/check-protocol-purity.sh

say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings

say "documentation"
# For those who work on it: private items are documented and may be linked to.
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" \
    cargo doc --locked --workspace --no-deps --document-private-items

say "licences, sources and versions of dependencies"
scripts/check-dependencies.sh

say "scripts"
shellcheck --external-sources --source-path SCRIPTDIR scripts/*.sh .ci/run

say "dashboards and alerts"
python3 scripts/make-dashboards.py --check
python3 scripts/check-dashboards.py
scripts/check-dashboard-schema.sh
scripts/check-alerts.sh

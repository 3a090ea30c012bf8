#!/usr/bin/env bash
# Fuzzes every parser of outside bytes: scripts/fuzz.sh [SECONDS [TARGET…]]
#
# Each target runs for SECONDS (60) from its committed corpus, and gets one line: what it executed and
# covered. A crash ends with status 1; its input stays in protocol/fuzz/artifacts/TARGET. What is found
# on the way is kept in protocol/fuzz/target/found, and seeds the next run.
#
# FUZZ_TOOLCHAIN names the nightly toolchain (nightly). Without a sanitizer (FUZZ_SANITIZER=none, else address) and with
# short inputs (FUZZ_MAX_LEN=128, else 2048) the small targets run five to ten times as fast.
set -euo pipefail
cd "$(dirname "$0")/../protocol/fuzz"

seconds=${1:-60}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS [TARGET…]]" >&2; exit 2; }
toolchain=${FUZZ_TOOLCHAIN:-nightly}
sanitizer=${FUZZ_SANITIZER:-address}
max_len=${FUZZ_MAX_LEN:-2048}

cargo "+$toolchain" --version >/dev/null 2>&1 || {
    echo "fuzz: no '$toolchain' toolchain; install one: rustup toolchain install nightly --profile minimal" >&2
    exit 1
}
command -v c++ >/dev/null || {
    echo "fuzz: libFuzzer needs a C++ compiler; install one: apt-get install clang libstdc++-dev" >&2
    exit 1
}
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked

targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

echo "fuzz: building"
cargo "+$toolchain" fuzz build --fuzz-dir . --sanitizer "$sanitizer"

failed=()
for target in "${targets[@]}"; do
    found=target/found/$target
    log=target/$target.log
    mkdir -p "$found" "corpus/$target" "artifacts/$target"
    status=0
    cargo "+$toolchain" fuzz run --fuzz-dir . --sanitizer "$sanitizer" "$target" "$found" "corpus/$target" -- \
        -max_total_time="$seconds" -max_len="$max_len" -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1 || status=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    if ((status == 0)); then
        verdict="no crash"
    else
        failed+=("$target")
        verdict="FAILED, see protocol/fuzz/$log and protocol/fuzz/artifacts/$target"
    fi
    printf '%-12s %10s executions, coverage %6s, %ss: %s\n' \
        "$target" "${executions:-?}" "${coverage:-?}" "$seconds" "$verdict"
done

if ((${#failed[@]})); then
    echo "fuzz: failed: ${failed[*]}" >&2
    exit 1
fi

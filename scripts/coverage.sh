#!/bin/bash
# Line coverage of the wire code by tests without a network: scripts/coverage.sh [LEAST]
#
# The wire code is punchcast-protocol, all of it, and what else takes bytes off the network apart: both sides
# of relaying, and messages on streams. Runs the tests of its crates, the replay of the fuzzers' corpora among
# them, and prints for each file and in all how many of the lines that hold code were run, and which were
# not. Lines of tests don't count. Below LEAST (95) percent in all it ends with status 1.
source "$(dirname "$0")/common.sh"

least=${1:-95}
[[ $least =~ ^[0-9]+$ ]] || fail "usage: scripts/coverage.sh [LEAST], in percent"
packages=(--package punchcast-protocol --package punchcast-transport --package rendezvous)
wire='^(protocol/src/|transport/src/(paths|stream|relay/client)[.]rs|rendezvous/src/relay/)'

tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
if [[ ! -x $tools/llvm-cov ]]; then
    rustup component add llvm-tools ||
        fail "llvm-cov and llvm-profdata of this rustc's LLVM are needed in $tools; with rustup: rustup component add llvm-tools"
fi

# Instrumented crates are of no other use, and are kept apart.
export CARGO_TARGET_DIR=$PWD/target/coverage RUSTFLAGS="-C instrument-coverage"
profiles=$CARGO_TARGET_DIR/profiles
export LLVM_PROFILE_FILE=$profiles/%p-%m.profraw

say "building"
mapfile -t objects < <(cargo test --locked "${packages[@]}" --no-run 2>&1 | tee >(cat >&2) |
    sed -n 's/.*Executable.*(\(.*\))$/--object=\1/p')
((${#objects[@]})) || fail "nothing was built"

say "testing"
# Build scripts leave profiles, too.
rm -rf "$profiles"
# The long simulations run no further lines, and instrumented they take minutes.
PACKETS=30000 INSIDER_PACKETS=10000 cargo test --locked "${packages[@]}" --tests --no-fail-fast -- --skip whatever_the_network_does

say "lines run"
"$tools/llvm-profdata" merge --sparse -o "$profiles/all.profdata" "$profiles"/*.profraw
"$tools/llvm-cov" export --format=lcov --instr-profile="$profiles/all.profdata" "${objects[@]}" |
    awk -v root="$PWD/" -v wire="$wire" -v least="$least" '
        function close_file() {
            if (lines) {
                printf "%-40s %5d of %5d  %5.1f%%%s\n", file, run, lines, 100 * run / lines, missed
                all_run += run
                all_lines += lines
            }
        }
        /^SF:/ {
            name = substr($0, 4)
            file = index(name, root) == 1 ? substr(name, length(root) + 1) : ""
            counts = file ~ wire && file !~ /tests\.rs$/
            # A module of tests comes last in its file.
            number = 0
            tests_at = 1e9
            while (counts && (getline line < name) > 0) {
                number++
                if (line == "#[cfg(test)]") {
                    tests_at = number
                    break
                }
            }
            close(name)
            run = lines = 0
            missed = ""
        }
        counts && /^DA:/ {
            split(substr($0, 4), data, ",")
            if (data[1] + 0 >= tests_at) next
            lines++
            if (data[2] > 0) run++
            else missed = missed " " data[1]
        }
        counts && /^end_of_record/ { close_file() }
        END {
            if (!all_lines) exit 1
            printf "%-40s %5d of %5d  %5.1f%%\n", "in all", all_run, all_lines, 100 * all_run / all_lines
            exit 100 * all_run < least * all_lines
        }' || fail "less than $least% of the lines of the wire code were run"

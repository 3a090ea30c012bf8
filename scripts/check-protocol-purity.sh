#!/bin/bash
# The protocol crate must stay free of runtimes, sockets, the clock, threads and GStreamer, so that
# its tests need none of them: neither among what it depends on, nor by name in its code.
source "$(dirname "$0")/common.sh"

impure='tokio.*|async-.*|futures.*|smol|mio|polling|socket2|nix|rustix|if-addrs|quinn.*|rustls|hyper.*|axum.*|gst.*|glib.*|chrono|time|clap.*|yaml_serde|serde_yaml|prometheus'
found=$(cargo tree --locked -p punchcast-protocol --edges normal --prefix none --format '{p}' |
    cut -d ' ' -f 1 | sort -u | grep -E -x "$impure" || true)
[[ -z $found ]] || fail "protocol must not depend on: ${found//$'\n'/, }"

names='std::net::(Udp|Tcp)|std::(thread|fs|process|env)::|Instant::now|SystemTime|rand::rng\(\)|ThreadRng'
# Tests come last in a file, and may read the clock.
# shellcheck disable=SC2016 # awk's own variables
found=$(find protocol/src -name '*.rs' ! -name tests.rs -print0 | sort -z | xargs -0 awk -v names="$names" '
    FNR == 1 { tests = 0 }
    /^#\[cfg\(test\)\]/ { tests = 1 }
    !tests && !/^ *\/\/[\/!]/ && $0 ~ names { print FILENAME ":" FNR ": " $0 }')
[[ -z $found ]] || fail "protocol must be given sockets, time and randomness:"$'\n'"$found"
echo "pure"

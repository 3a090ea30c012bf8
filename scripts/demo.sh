#!/bin/bash
# Streams a clip from a broadcaster to a viewer on this machine, by way of a rendezvous, and shows
# what arrived. KEEP=1 goes on until Ctrl-C; PROFILE=debug takes the unoptimized build.
source "$(dirname "$0")/common.sh"

profile=${PROFILE:-release}
clip=tests/media/bigbuckbunny.mp4
out=target/demo
# Picture and sound that the viewer must have decoded, and the time that it gets for it.
seconds=10
watch_for=13s

pids=()
stop() {
    local pid
    # Viewer first, rendezvous last: everybody can say goodbye.
    for ((at = ${#pids[@]} - 1; at >= 0; at--)); do
        pid=${pids[at]}
        kill -TERM "$pid" 2>/dev/null || continue
        wait "$pid" 2>/dev/null || true
    done
    pids=()
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for WHAT LOG COMMAND...: until COMMAND prints something, which is printed.
wait_for() {
    local what=$1 log=$2 answer
    shift 2
    for _ in {1..200}; do
        if answer=$("$@" 2>/dev/null) && [[ -n $answer ]]; then
            printf '%s\n' "$answer"
            return
        fi
        sleep 0.1
    done
    cat "$log" >&2
    fail "no $what within 20 s"
}

# The first words that a pattern's group matches in a log.
matched() { sed -n "s|.*$1.*|\1|p" "$2" | head -n 1; }

scripts/install.sh build run
say "building"
flags=()
[[ $profile == debug ]] || flags=(--profile "$profile")
cargo build --locked "${flags[@]}" --bin punchcast-rendezvous --bin punchcast-broadcaster \
    --bin punchcast-viewer
bin=target/$profile

rm -rf "$out"
mkdir -p "$out"
export NO_COLOR=1

say "starting"
"$bin/punchcast-rendezvous" --listen 127.0.0.1:0 --metrics 127.0.0.1:0 2>"$out/rendezvous.log" &
pids+=($!)
rendezvous=$(wait_for "rendezvous" "$out/rendezvous.log" \
    matched 'rendezvous listening on \([^ ]*\)' "$out/rendezvous.log")
"$bin/punchcast-broadcaster" --rendezvous "$rendezvous" --source "file:$clip" \
    --metrics 127.0.0.1:0 --state "$out/state" --link-file "$out/link" \
    >/dev/null 2>"$out/broadcaster.log" &
pids+=($!)
link=$(wait_for "watch link" "$out/broadcaster.log" cat "$out/link")
metrics=$(matched 'metrics on \([^ ]*\)' "$out/broadcaster.log")
rendezvous_metrics=$(matched 'metrics on \([^ ]*\)' "$out/rendezvous.log")

cat <<END
watch link           $link
broadcaster metrics  $metrics
rendezvous metrics   $rendezvous_metrics
logs                 $out/*.log
END

say "watching for $watch_for"
outputs=(--output null --output "record:$out/recording.mkv")
[[ -z ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] || outputs+=(--output window)
"$bin/punchcast-viewer" watch "$link" "${outputs[@]}" --for "$watch_for" --stats json \
    >"$out/stats.jsonl" 2>"$out/viewer.log" &
viewer=$!
pids+=("$viewer")
code=0
wait "$viewer" || code=$?
unset 'pids[-1]'
if [[ $code -ne 0 ]]; then
    cat "$out/viewer.log" >&2
    fail "the viewer ended with exit code $code"
fi

say "what arrived"
# A picture each second of the recording, the last of which is kept, and all of its sound.
gst-launch-1.0 --quiet filesrc location="$out/recording.mkv" ! matroskademux name=demux \
    demux.video_0 ! queue ! decodebin ! videoconvert ! videorate ! video/x-raw,framerate=1/1 ! \
    pngenc ! multifilesink location="$out/picture.png" \
    demux.audio_0 ! queue ! decodebin ! audioconvert ! audioresample ! \
    audio/x-raw,format=S16LE,rate=48000,channels=2 ! filesink location="$out/sound.raw" \
    >"$out/decode.log" 2>&1 || { cat "$out/decode.log" >&2; fail "the recording cannot be decoded"; }
python3 scripts/demo-report.py "$out" "$seconds"

if [[ -n ${KEEP:-} ]]; then
    trap 'exit 0' INT TERM
    say "still streaming, until Ctrl-C; watch with: $bin/punchcast-viewer watch '$link'"
    wait "${pids[@]}"
else
    echo
    echo "To keep it running: make demo KEEP=1"
fi

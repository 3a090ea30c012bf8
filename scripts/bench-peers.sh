#!/bin/bash
# Prepares what `make bench` measures beside: builds target/peers/release/bench-peer, and makes the
# stream that all peers send, target/bench/stream.h264.
source "$(dirname "$0")/common.sh"

scripts/install.sh build run test bench
cargo build --locked --release --manifest-path tests/peers/Cargo.toml --target-dir target/peers

# 4 Mbit/s, 30 frames a second, a keyframe each second, one slice a frame. Noise keeps the encoder at
# its rate; one thread makes the same stream again.
stream=target/bench/stream.h264
if [[ ! -s $stream ]]; then
    mkdir -p target/bench
    ffmpeg -nostdin -loglevel error -y -f lavfi -t 10 \
        -i "testsrc2=size=1280x720:rate=30,noise=alls=20:allf=t" \
        -c:v libx264 -preset veryfast -profile:v baseline -pix_fmt yuv420p -bf 0 -threads 1 \
        -g 30 -keyint_min 30 -sc_threshold 0 -b:v 4M -minrate 4M -maxrate 4M -bufsize 400k \
        -x264-params nal-hrd=cbr:sliced-threads=0:slices=1 "$stream.part.h264"
    mv "$stream.part.h264" "$stream"
fi

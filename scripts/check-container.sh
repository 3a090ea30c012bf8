#!/bin/bash
# Builds the container image of the rendezvous from target/debian, on a Debian 12 that is made here in place of the image
# of a registry, and starts the program in it. As root or with sudo. The stage that compiles is not tried: it takes
# the packages that are there.
source "$(dirname "$0")/common.sh"

suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
base=localhost/debian:fresh
image=localhost/punchcast-rendezvous:check

scripts/install.sh soak
compgen -G 'target/debian/*.deb' >/dev/null || scripts/deb.sh
as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
work=$(mktemp -d)
trap '"${as_root[@]}" rm -rf --one-file-system "$work"' EXIT
# What runs ends first: else it would write on into what is being removed.
trap 'exit 130' INT
trap 'exit 143' TERM
# Images stay in the folder, and go with it.
buildah() {
    "${as_root[@]}" env BUILDAH_ISOLATION=chroot buildah --root "$work/images" --runroot "$work/run" --storage-driver vfs "$@"
}

say "a Debian $suite to build on"
"${as_root[@]}" mmdebstrap --quiet --variant=minbase "$suite" "$work/debian.tar" "$mirror"
container=$(buildah from scratch)
buildah add --quiet "$container" "$work/debian.tar" / >/dev/null
buildah commit --quiet --rm "$container" "$base" >/dev/null

say "building the image"
buildah build --quiet --pull-never --network host --file configs/container/Containerfile \
    --build-arg RUST="$base" --build-arg DEBIAN="$base" --tag "$image" .

say "starting it"
container=$(buildah from --pull-never "$image")
[[ $(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image") == punchcast ]] || fail "it runs as root"
# shellcheck disable=SC2016 # the container's own variable
buildah run "$container" -- /bin/sh -c 'exec "$PROGRAM" "$@"' -- --version
# shellcheck disable=SC2016
buildah run "$container" -- /bin/sh -c '
    "$PROGRAM" --listen 127.0.0.1:0 2>log & until grep -q "rendezvous listening on" log; do kill -0 $! || exit 1; done
    kill $! && wait $!'
say "the image does"

#!/bin/bash
# Installs what is missing for the purposes named: build, run, test, bench, soak, deb, lint. Debian and Ubuntu.
source "$(dirname "$0")/common.sh"

declare -A packages=(
    [build]="build-essential pkg-config cmake libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev"
    [run]="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
        gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-x gstreamer1.0-pulseaudio
        gstreamer1.0-pipewire
        gstreamer1.0-tools python3"
    [test]="nftables iproute2 tcpdump util-linux mount ffmpeg curl coturn miniupnpd-nftables
        ethtool iperf3 iputils-ping prometheus fonts-dejavu-core tmux xvfb xdotool
        tesseract-ocr tesseract-ocr-eng
        python3-gi gir1.2-gst-rtsp-server-1.0 openssl
        dbus-daemon pipewire pipewire-bin wireplumber"
    [bench]="gnuplot-nox gstreamer1.0-nice libgstreamer-plugins-bad1.0-dev
        srt-tools rist-tools"
    [deb]="dpkg-dev lintian python3"
    [soak]="libfaketime mmdebstrap bubblewrap systemd-container buildah"
    [lint]="shellcheck python3 python3-venv prometheus"
)
# The oldest Rust that the workspace's Cargo.toml allows.
minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "installing packages takes root or sudo; as root, run: $*"
    fi
}

install_missing() {
    local missing=() package
    for package in "$@"; do
        # shellcheck disable=SC2016 # dpkg-query's own variable
        if [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
            missing+=("$package")
        fi
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
}

check_rust() {
    local advice="install it from https://rustup.rs, then: rustup toolchain install stable"
    if ! command -v cargo >/dev/null; then
        # rustup's own folder is not on the path of a shell that was open before.
        [[ ! -x $HOME/.cargo/bin/cargo ]] || fail "cargo is not on PATH; run: . ~/.cargo/env"
        if LC_ALL=C apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [^(]'; then
            install_missing rustup
        fi
        command -v rustup >/dev/null || fail "Rust $minimum or newer is needed; $advice"
    fi
    if ! cargo --version >/dev/null 2>&1; then
        say "installing the stable Rust toolchain"
        rustup default stable
    fi
    local have
    have=$(cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$minimum" "$have" | sort -V | head -n 1) != "$minimum" ]]; then
        fail "Rust $minimum or newer is needed, this is $have; with rustup: rustup update stable"
    fi
}

wanted=()
for purpose in "$@"; do
    [[ -n ${packages[$purpose]:-} ]] || fail "unknown purpose '$purpose': ${!packages[*]}"
    read -r -d '' -a words <<<"${packages[$purpose]}" || true
    wanted+=("${words[@]}")
done
if [[ " $* " == *" test "* ]] &&
    ! command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; then
    # Ubuntu has none but as a snap, which sees no namespaces of the lab's.
    if command -v apt-cache >/dev/null && LC_ALL=C apt-cache policy chromium | grep -q 'Candidate: (none)'; then
        fail "the tests need a Chromium, and here is no package of it: install Google Chrome"
    fi
    wanted+=(chromium)
fi
if [[ " $* " == *" lint "* ]] && ! command -v npm >/dev/null; then
    # Other packages of Node.js have it within.
    wanted+=(npm)
fi
if command -v dpkg-query >/dev/null; then
    install_missing "${wanted[@]}"
else
    say "not Debian or Ubuntu: install what these packages hold yourself: ${wanted[*]}"
fi
check_rust

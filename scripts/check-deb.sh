#!/bin/bash
# Installs the packages of target/debian (made where they are missing) on a fresh Debian in a temporary folder, and tries
# them as a user would: programs, completions, pages for man, units, services, the commands of each page in docs/, removal.
# SUITE is the release (bookworm unless told), MIRROR where it comes from, as root or with sudo. Programs there have a
# network of their own, which is loopback alone; only apt has this machine's. Nothing outside of the folder changes.
source "$(dirname "$0")/common.sh"

suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
packages=target/debian
here=$PWD
programs=(punchcast-broadcaster punchcast-viewer punchcast-rendezvous)
# What systemd-analyze security gives each unit at most, in tenths: 0 is closed, 100 is open.
exposed=20

scripts/install.sh build run test soak
compgen -G "$packages/*.deb" >/dev/null || scripts/deb.sh
say "building the test that follows the pages"
pages=$(cargo test --locked --package tests --test documentation --no-run --message-format json |
    python3 -c 'import json, sys
for line in sys.stdin:
    told = json.loads(line)
    if told.get("executable") and told["target"]["name"] == "documentation":
        print(told["executable"])')

as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
work=$(mktemp -d)
root=$work/root
trap '"${as_root[@]}" rm -rf --one-file-system "$work"' EXIT
# What runs ends first: else it would write on into what is being removed.
trap 'exit 130' INT
trap 'exit 143' TERM

say "a fresh Debian $suite"
# Packages that every Debian has, systemd among them.
"${as_root[@]}" mmdebstrap --quiet --variant=important --include=ca-certificates "$suite" "$root" "$mirror"
# Where these sources will be seen; bwrap would make the folders for root alone.
"${as_root[@]}" install -d "$root$here"

# Runs a command within the fresh Debian, with the flags of bwrap that come before "--".
within() {
    local flags=()
    while [[ $1 != -- ]]; do
        flags+=("$1")
        shift
    done
    shift
    "${as_root[@]}" bwrap --bind "$root" / --dev /dev --proc /proc --perms 1777 --tmpfs /tmp --tmpfs /run \
        --unshare-pid --unshare-ipc --die-with-parent --cap-add ALL --setenv PATH /usr/sbin:/usr/bin:/sbin:/bin \
        --setenv HOME /tmp --setenv DEBIAN_FRONTEND noninteractive --setenv LC_ALL C.UTF-8 "${flags[@]}" "$@"
}
# With this machine's network, and the packages in /run/packages.
online() {
    within --ro-bind "$here/$packages" /run/packages --ro-bind /etc/resolv.conf /etc/resolv.conf --chdir / -- "$@"
}
# With a network of its own, and these sources, read-only, where they are here.
alone() { within --unshare-net --ro-bind "$here" "$here" --chdir "$here" -- "$@"; }

# apt-get, in silence unless it fails.
apt() {
    online apt-get -q -y "$@" >"$work/log" 2>&1 || { cat "$work/log"; fail "apt-get $*"; }
}

# Installs the packages, with flags of apt-get.
install_packages() {
    local files=("$packages"/*.deb)
    apt install "$@" "${files[@]/#$packages//run/packages}"
}

# Removes them with all that came with them, settings and keys included, and sees that nothing stays.
purge_packages() {
    apt purge --autoremove "${programs[@]}"
    local left
    left=$("${as_root[@]}" find "$root" -xdev -iname '*punchcast*' -not -path "$root/var/log/*")
    [[ -z $left ]] || fail "purged packages leave $left"
}

say "installing, with nothing that is only recommended"
apt update
apt install --no-install-recommends python3 iproute2
install_packages --no-install-recommends
for program in "${programs[@]}"; do
    alone "$program" --version
    # Nothing has been enabled, nor started.
    [[ ! -e $root/etc/systemd/system/multi-user.target.wants/$program.service ]] || fail "$program is enabled"
done
# What they depend on does for a stream.
alone python3 scripts/run-docs.py docs/watching.md

purge_packages

say "installing, with what is recommended and what the pages use"
install_packages
apt install --no-install-recommends man-db curl ffmpeg gstreamer1.0-tools python3-gi gir1.2-gst-rtsp-server-1.0 \
    bash-completion zsh fish

say "pages for man and completions"
# shellcheck disable=SC2016 # the shells' own variables
for program in "${programs[@]}"; do
    alone man -w "$program" "$program-completions"
    alone bash -c 'source /usr/share/bash-completion/bash_completion && _completion_loader "$1"; complete -p "$1"' - "$program"
    alone zsh -fc 'autoload -U compinit && compinit -u -d /tmp/dump && print ${_comps[$1]:?}' - "$program"
    alone fish -c 'complete -C "$argv[1] --" | string match -q -- "--help*"' "$program"
done

say "units"
alone systemd-analyze verify punchcast-broadcaster.service punchcast-rendezvous.service punchcast-viewer@example.service
for unit in punchcast-broadcaster.service punchcast-rendezvous.service punchcast-viewer@.service; do
    alone systemd-analyze security --no-pager --offline=true --threshold="$exposed" \
        "/usr/lib/systemd/system/$unit" >"$work/log" 2>&1 || { cat "$work/log"; fail "$unit is not closed enough"; }
    tail -n 1 "$work/log"
done

say "services, on a Debian that is booted for it"
cat >"$work/try-services" <<'END'
#!/bin/sh
set -e
systemctl start punchcast-rendezvous
sed -i 's/^rendezvous: null/rendezvous: 127.0.0.1:3478/' /etc/punchcast/broadcaster.yaml
systemctl start punchcast-broadcaster
until [ -s /run/punchcast-broadcaster/links ]; do systemctl is-active --quiet punchcast-broadcaster; done
sed 's#^output: .*#output: [record:/var/lib/punchcast-viewer-hall/recording.mkv]#' \
    /usr/share/doc/punchcast-viewer/examples/viewer.yaml >/etc/punchcast/viewer-hall.yaml
head -n 1 /run/punchcast-broadcaster/links | install -m 0600 /dev/stdin /etc/punchcast/viewer-hall.link
systemctl start punchcast-viewer@hall
cd /var/lib/punchcast-viewer-hall
until [ "$(stat -c %s recording.mkv 2>/dev/null || echo 0)" -gt 500000 ]; do
    systemctl is-active --quiet punchcast-viewer@hall
done
systemctl stop punchcast-viewer@hall punchcast-broadcaster punchcast-rendezvous
[ -z "$(systemctl list-units --failed --no-legend 'punchcast-*')" ]
# What purging leaves to its owner.
cd / && rm -r /etc/punchcast/viewer-hall.* /var/lib/private/punchcast-viewer-hall /var/lib/punchcast-viewer-hall \
    /var/cache/private/punchcast-viewer-hall /var/cache/punchcast-viewer-hall
echo services work
END
cat >"$work/try-services.service" <<'END'
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/try-services
StandardOutput=file:/try-services.log
TimeoutStartSec=120
END
"${as_root[@]}" mkdir -p "$root/var/log/journal"
"${as_root[@]}" install -m 0755 "$work/try-services" "$root/try-services"
"${as_root[@]}" install -m 0644 "$work/try-services.service" "$root/etc/systemd/system/"
"${as_root[@]}" ln -s ../try-services.service "$root/etc/systemd/system/multi-user.target.wants/"
# Not a machine of this one's systemd, which need not run here.
"${as_root[@]}" systemd-nspawn --quiet --directory "$root" --boot --register=no --keep-unit --private-network \
    --link-journal=no --console=pipe </dev/null >"$work/log" 2>&1 || true
grep -x 'services work' "$root/try-services.log" || {
    cat "$work/log" "$root/try-services.log"
    "${as_root[@]}" journalctl --no-pager --directory "$root/var/log/journal" --unit 'punchcast-*' || true
    fail "a service does not do"
}
"${as_root[@]}" rm "$root"/try-services* "$root"/etc/systemd/system/{,multi-user.target.wants/}try-services.service

say "the commands of the pages, by a user without rights"
"${as_root[@]}" chroot "$root" useradd --create-home reader
within --unshare-net --ro-bind "$here" "$here" --chdir "$here" --setenv PROGRAMS installed -- \
    setpriv --reuid reader --regid reader --init-groups env HOME=/home/reader \
    "$pages" --nocapture the_commands_of_the_pages_work_as_written
"${as_root[@]}" chroot "$root" userdel --remove reader 2>/dev/null

say "removal"
apt remove "${programs[@]}"
for kept in etc/punchcast/rendezvous.yaml var/lib/private/punchcast-broadcaster; do
    "${as_root[@]}" test -e "$root/$kept" || fail "the removal takes $kept along"
done
purge_packages

say "the packages do on Debian $suite"

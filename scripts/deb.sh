#!/bin/bash
# Makes the .deb packages of the three programs, into target/debian, and looks at them with lintian. They run on the
# release of Debian that they were made on, and on later ones.
source "$(dirname "$0")/common.sh"

pinned=3.8.0
tools=target/tools/cargo-deb
programs=(punchcast-broadcaster punchcast-viewer punchcast-rendezvous)
made=target/packages
out=target/debian

scripts/install.sh build deb
if [[ $("$tools/bin/cargo-deb" --version 2>/dev/null) != "cargo-deb $pinned" ]]; then
    say "building cargo-deb $pinned"
    cargo install cargo-deb --locked --version "$pinned" --root "$tools" --force
fi

say "building"
cargo build --locked --release --package broadcaster --package viewer --package rendezvous --bins

say "completions, pages for man, licences"
rm -rf "$made" "$out"
for program in "${programs[@]}"; do
    mkdir -p "$made/$program/man"
    binary=target/release/$program
    "$binary" completions bash >"$made/$program/$program.bash"
    "$binary" completions zsh >"$made/$program/_$program"
    "$binary" completions fish >"$made/$program/$program.fish"
    "$binary" man "$made/$program/man"
done
for crate in broadcaster viewer rendezvous; do
    python3 scripts/licences.py "$crate" >"$made/punchcast-$crate/licences-of-crates"
done

say "packing"
for crate in broadcaster viewer rendezvous; do
    # Quiet: it takes what was made into target/packages for something that cargo might build.
    "$tools/bin/cargo-deb" --quiet --no-build --strip --locked --package "$crate" --output "$out/"
done

say "lintian"
# The packages do not come from Debian's own archive, which has no bug that asks for them.
lintian --fail-on error,warning --tag-display-limit 0 --suppress-tags initial-upload-closes-no-bugs "$out"/*.deb
ls -l "$out"

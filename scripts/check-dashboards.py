#!/usr/bin/env python3
"""Checks every dashboard: its metrics exist in the code, each panel says what it shows and in which
unit, and nothing is tied to one data source or one scrape interval."""

import json
import pathlib
import re
import sys

METRIC = re.compile(r"punchcast_[a-z0-9_]+")
# What Prometheus appends to a histogram's name.
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
# Over the whole time shown, or over the interval that fits the resolution.
WINDOW = re.compile(r"\[(?!\$__rate_interval\]|\$__range\])")


def metrics_in_code():
    """Names in the sources of the programs, and which of them are histograms."""
    names, histograms = set(), set()
    for source in sorted(pathlib.Path(".").glob("*/src/**/*.rs")):
        text = source.read_text(encoding="utf-8")
        names.update(re.findall(r'"(punchcast_[a-z0-9_]+)"', text))
        histograms.update(re.findall(r'HistogramOpts::new\(\s*"(punchcast_[a-z0-9_]+)"', text))
    return names, histograms


def problems(path, names, histograms):
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for wanted in ("datasource", "job", "instance"):
        if wanted not in variables:
            yield f"no variable {wanted}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        yield "two panels have one id"
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        title = panel.get("title") or f"panel {panel['id']}"
        if not panel.get("title") or not panel.get("description"):
            yield f"{title}: no title or description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{title}: no unit"
        for target in panel["targets"]:
            if target["datasource"]["uid"] != "${datasource}":
                yield f"{title}: the data source is not the variable"
            if WINDOW.search(target["expr"]):
                yield f"{title}: a window that is neither $__rate_interval nor $__range"
            for name in METRIC.findall(target["expr"]):
                base = HISTOGRAM.sub("", name)
                if name not in names and base not in histograms:
                    yield f"{title}: no metric {name} in the code"


def main():
    names, histograms = metrics_in_code()
    found = 0
    for path in sorted(pathlib.Path("grafana/dashboards").glob("*.json")):
        for problem in problems(path, names, histograms):
            print(f"{path}: {problem}", file=sys.stderr)
            found += 1
    sys.exit(1 if found else 0)


main()

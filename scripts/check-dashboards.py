#!/usr/bin/env python3
"""Checks dashboards, alerts and their runbooks: metrics that are named exist, each panel says what it
shows and in which unit, nothing is tied to one data source or one scrape interval, and each alert has
a runbook and a test. What Grafana itself takes is check-dashboard-schema.sh's part, what Prometheus
takes check-alerts.sh's."""

import json
import pathlib
import re
import subprocess
import sys

METRIC = re.compile(r"\b(?:punchcast|process)_[a-z0-9_]+")
# What Prometheus appends to a histogram's name.
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")
# Over the whole time shown, or over the interval that fits the resolution.
WINDOW = re.compile(r"\[(?!\$__rate_interval\]|\$__range\])")
# Grafana's names of units that are in use; it shows a unit that it does not know as a suffix.
UNITS = {"Bps", "bps", "bytes", "cpm", "cps", "dtdurations", "none", "percentunit", "pps", "reqps", "s", "short"}
# Metrics that the programs have from a library.
PROCESS = {
    "process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes",
    "process_start_time_seconds", "process_threads", "process_virtual_memory_bytes",
}

DASHBOARDS = pathlib.Path("grafana/dashboards")
ALERTS = pathlib.Path("grafana/alerts.yaml")
TESTS = pathlib.Path("grafana/alerts_test.yaml")
RUNBOOKS = pathlib.Path("docs/runbooks.md")
METRICS = pathlib.Path("docs/metrics.md")


def known_metrics():
    """Names of all metrics, those that histograms have included."""
    names, histograms = set(PROCESS), set()
    if METRICS.exists():
        for line in METRICS.read_text(encoding="utf-8").splitlines():
            if line.startswith("|"):
                found = METRIC.findall(line.split("|")[1])
                names.update(found)
                if "histogram" in line:
                    histograms.update(found)
    else:
        # Which of them are histograms is not told here.
        for source in sorted(pathlib.Path(".").glob("*/src/**/*.rs")):
            text = source.read_text(encoding="utf-8")
            histograms.update(re.findall(r'"(punchcast_[a-z0-9_]+)"', text))
    return names | histograms | {name + suffix for name in histograms for suffix in ("_bucket", "_sum", "_count")}


def unknown(expr, names):
    where = METRICS if METRICS.exists() else "the code"
    for name in sorted(set(METRIC.findall(expr)) - names):
        yield f"no metric {name} in {where}"


def in_dashboard(path, names):
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for wanted in ("datasource", "job", "instance"):
        if wanted not in variables:
            yield f"no variable {wanted}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        yield "two panels have one id"
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            title = panel.get("title") or f"panel {panel['id']}"
            yield from (f"{title}: {problem}" for problem in in_panel(panel, variables, names))
    yield from overlaps(dashboard["panels"])


def in_panel(panel, variables, names):
    if not panel.get("title") or not panel.get("description"):
        yield "no title or description"
    config = panel["fieldConfig"]
    units = [config["defaults"].get("unit")]
    units += [item["value"] for override in config["overrides"] for item in override["properties"]
              if item["id"] == "unit"]
    for unit in units:
        if unit not in UNITS and not str(unit).startswith("suffix:"):
            yield f"no unit, or one that is not known here: {unit}"
    if panel["datasource"]["uid"] != "${datasource}":
        yield "the data source is not the variable"
    for target in panel["targets"]:
        expr = target["expr"]
        if target["datasource"]["uid"] != "${datasource}":
            yield "a query's data source is not the variable"
        if WINDOW.search(expr):
            yield "a window that is neither $__rate_interval nor $__range"
        for name in re.findall(r"\$\{?(\w+)", expr):
            if name not in variables and not name.startswith("__"):
                yield f"no variable {name}"
        if expr.count("(") != expr.count(")") or expr.count("{") != expr.count("}"):
            yield "parentheses do not match"
        yield from unknown(expr, names)


def overlaps(panels):
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                if x >= 24 or taken.setdefault((x, y), panel["id"]) != panel["id"]:
                    yield f"{panel['title']}: overlaps another panel, or is too far to the right"
                    return


def in_alerts(names):
    text = ALERTS.read_text(encoding="utf-8")
    tests = TESTS.read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in
               re.findall(r"^## (\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)}
    # Without comments, texts for people, and names that the rules themselves record (with colons).
    code = "\n".join(line for line in text.splitlines()
                     if not re.match(r"\s*(#|summary:|description:|runbook:)", line))
    yield from unknown(re.sub(r"\b\w+:\w+[\w:]*", "", code), names)
    alerts = re.split(r"^\s*- alert: ", text, flags=re.MULTILINE)[1:]
    for alert in alerts:
        name = alert.split()[0]
        for wanted in ("severity", "summary", "description", "runbook"):
            if not re.search(rf"^\s*{wanted}: \S", alert, re.MULTILINE):
                yield f"{name}: no {wanted}"
        runbook = re.search(r"^\s*runbook: docs/runbooks\.md#(\S+)$", alert, re.MULTILINE)
        if not runbook or runbook[1] != name.lower() or runbook[1] not in anchors:
            yield f"{name}: its runbook is not a heading of {RUNBOOKS}"
        for wanted in (f"alertname: {name}", f"fires: {name}"):
            if wanted not in tests:
                yield f"{name}: no '{wanted}' in {TESTS}"
    extra = anchors - {alert.split()[0].lower() for alert in alerts}
    for anchor in sorted(anchor for anchor in extra if anchor.startswith("punchcast")):
        yield f"{RUNBOOKS} has a section for no alert: {anchor}"


def in_intervals():
    """Grafana takes the least useful interval of rates from the data source's setting."""
    scrape = re.search(r"^\s*scrape_interval: (\S+)", pathlib.Path("grafana/prometheus.yaml").read_text(), re.M)
    source = pathlib.Path("grafana/provisioning/datasources/prometheus.yaml").read_text()
    least = re.search(r"^\s*timeInterval: (\S+)", source, re.MULTILINE)
    if not scrape or not least or scrape[1] != least[1]:
        yield "the data source's timeInterval is not Prometheus's scrape_interval"


def main():
    names = known_metrics()
    problems = [f"{path}: {problem}" for path in sorted(DASHBOARDS.glob("*.json"))
                for problem in in_dashboard(path, names)]
    problems += [f"{ALERTS}: {problem}" for problem in in_alerts(names)]
    problems += [f"grafana: {problem}" for problem in in_intervals()]
    for problem in problems:
        print(problem, file=sys.stderr)
    written = subprocess.run([sys.executable, "scripts/make-dashboards.py", "--check"], check=False)
    sys.exit(1 if problems or written.returncode else 0)


if __name__ == "__main__":
    main()

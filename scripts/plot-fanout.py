#!/usr/bin/env python3
"""Draws what a fan-out costs against its number of viewers, as SVG for docs/images.

usage: plot-fanout.py REPORT.json FOLDER

REPORT.json is what bench-broadcast saves: of it the scenarios growth and peers."""

import json
import os
import statistics
import subprocess
import sys

# Field, file, title, unit.
PLOTS = [
    ("cpu_us_per_packet", "fan-out-cpu.svg", "Sender's CPU for a packet to one viewer", "µs"),
    ("resident_kib_per_viewer", "fan-out-memory.svg", "Sender's memory for each viewer", "KiB"),
]

# Mid tones, which stand out from white and from black. In order of first appearance.
COLOURS = ["#1f9d62", "#8a8f98", "#3f7fc4", "#d9825b", "#c2557f", "#9a6fd0", "#b59a1e", "#5aa9a3"]

# Text and axes in the reader's colours, as in docs/overview.svg.
STYLE = """<style>
  svg { color: #24303f; }
  @media (prefers-color-scheme: dark) { svg { color: #e6ebf2; } }
</style>
"""


def series(measurements, field):
    """Contender → sorted (viewers, median), without those that have no value."""
    samples = {}
    for measured in measurements:
        if measured[field] is not None:
            points = samples.setdefault(measured["contender"], {})
            points.setdefault(measured["viewers"], []).append(measured[field])
    return {
        contender: sorted((viewers, statistics.median(values)) for viewers, values in points.items())
        for contender, points in samples.items()
    }


def script(lines, colours, title, unit):
    """What gnuplot is to do: one line with its points for each contender."""
    viewers = sorted({x for points in lines.values() for x, _ in points})
    # A logarithmic axis has no room for what was not measurably more than nothing.
    values = [y for points in lines.values() for _, y in points if y > 0]
    plots, blocks = [], []
    for number, (contender, points) in enumerate(lines.items()):
        rows = "\n".join(f"{x} {y}" for x, y in points if y > 0)
        blocks.append(f"$line{number} << END\n{rows}\nEND")
        plots.append(
            f'$line{number} using 1:2 with linespoints linewidth 2 pointtype 7 pointsize 0.6 '
            f'linecolor rgb "{colours[contender]}" title "{contender}"'
        )
    tics = ", ".join(f'"{10**n:,}" {10**n}' for n in range(7))
    return "\n".join(
        blocks
        + [
            'set terminal svg size 760,420 dynamic font "system-ui, sans-serif,14" background rgb "white"',
            "set termoption noenhanced",
            f'set title "{title}"',
            f'set xlabel "viewers"\nset ylabel "{unit}"',
            "set logscale xy",
            f"set xrange [{viewers[0] / 1.4}:{viewers[-1] * 1.4}]",
            f"set yrange [{min(values) / 2}:{max(values) * 2}]",
            f"set xtics ({tics})\nset ytics ({tics})",
            "set border 3\nset tics nomirror out\nset grid ytics linewidth 0.5",
            "set key outside right center Left reverse samplen 2",
            "plot " + ", ".join(plots),
        ]
    )


def adapted(svg):
    """The same picture without a background of its own, and in the reader's colours."""
    lines = [line for line in svg.splitlines(keepends=True) if 'fill="#ffffff"' not in line]
    svg = "".join(lines)
    for black in ("black", "rgb(  0,   0,   0)", "rgb(0,0,0)"):
        svg = svg.replace(black, "currentColor")
    return svg.replace("<desc>", STYLE + "<desc>", 1)


def measurements_of(report):
    """One for each contender and number of viewers."""
    found = []
    for row in report["growth"]:
        name = f"punchcast, {row['framerate']} pictures/s"
        own = {"cpu_us_per_packet": row["cpu_us_per_packet"]["median"]}
        own["resident_kib_per_viewer"] = row["resident_kib_per_viewer"]["median"]
        found.append({"contender": name, "viewers": row["viewers"], **own})
        bare = {"cpu_us_per_packet": row["bare_us_per_packet"]["median"], "resident_kib_per_viewer": None}
        name = f"bare loop, {row['framerate']} pictures/s"
        found.append({"contender": name, "viewers": row["viewers"], **bare})
    for row in report["peers"]:
        if row["offload"]:
            cost = {"cpu_us_per_packet": row["cpu_us_per_packet"]["median"], "resident_kib_per_viewer": None}
            found.append({"contender": row["peer"], "viewers": row["viewers"], **cost})
    return found


def main(report_path, folder):
    with open(report_path, encoding="utf-8") as file:
        measurements = measurements_of(json.load(file))
    contenders = list(dict.fromkeys(measured["contender"] for measured in measurements))
    if len(contenders) > len(COLOURS):
        sys.exit(f"plot-fanout: at most {len(COLOURS)} contenders, not {len(contenders)}")
    colours = dict(zip(contenders, COLOURS))
    os.makedirs(folder, exist_ok=True)
    for field, name, title, unit in PLOTS:
        lines = series(measurements, field)
        if not lines:
            print(f"{name} not drawn: nobody has {field}", file=sys.stderr)
            continue
        commands = script(lines, colours, title, unit)
        drawn = subprocess.run(["gnuplot"], input=commands, text=True, stdout=subprocess.PIPE, check=True)
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(adapted(drawn.stdout))
        print(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

#!/usr/bin/env python3
"""Draws what repair leaves and what it takes, beside SRT and RIST, as SVG for docs/images.

usage: plot-repair.py MEASUREMENTS.csv FOLDER

MEASUREMENTS.csv is what bench-repair writes."""

import csv
import os
import subprocess
import sys

# Field, file, title, whether the axis is logarithmic.
PLOTS = [
    ("residual", "repair-residual.svg", "Packets missing at their deadline, of all", True),
    ("overhead", "repair-overhead.svg", "Repair and retransmission, of the media's bytes", False),
]

COLOURS = {"punchcast": "#1f9d62", "srt": "#3f7fc4", "rist": "#d9825b"}

# What was never missing has no place on a logarithmic axis: drawn at its foot.
FOOT = 1e-6


def script(rows, field, title, logarithmic):
    """What gnuplot is to do: one small plot for each round trip and latency."""
    rtts = sorted({row["rtt_ms"] for row in rows})
    multiples = sorted({row["latency_ms"] // row["rtt_ms"] for row in rows})
    commands = [
        f'set terminal svg size {270 * len(rtts)},{230 * len(multiples)} dynamic font "system-ui, sans-serif,12" '
        'background rgb "white"',
        "set termoption noenhanced",
        f'set multiplot layout {len(multiples)},{len(rtts)} title "{title}"',
        "set border 3\nset tics nomirror out\nset grid ytics linewidth 0.5",
        'set xrange [0:32]\nset xtics 10\nset xlabel "% lost each way"',
        "set key top left Left reverse samplen 1",
    ]
    if logarithmic:
        commands.append(f'set logscale y\nset yrange [{FOOT / 2}:1]\nset format y "%.0e"')
    else:
        commands.append('set yrange [0:1]\nset format y "%.1f"')
    number = 0
    for multiple in multiples:
        for rtt in rtts:
            plots = []
            for contender, colour in COLOURS.items():
                points = sorted(
                    (row["loss"] * 100, max(row[field], FOOT) if logarithmic else row[field])
                    for row in rows
                    if row["contender"] == contender
                    and row["rtt_ms"] == rtt
                    and row["latency_ms"] == rtt * multiple
                )
                if not points:
                    continue
                lines = "\n".join(f"{x} {y}" for x, y in points)
                commands.append(f"$block{number} << END\n{lines}\nEND")
                plots.append(
                    f"$block{number} using 1:2 with linespoints linewidth 2 pointtype 7 pointsize 0.5 "
                    f'linecolor rgb "{colour}" title "{contender}"'
                )
                number += 1
            commands.append(f'set title "{rtt} ms round trip, {rtt * multiple} ms latency"')
            commands.append("plot " + ", ".join(plots))
    commands.append("unset multiplot")
    return "\n".join(commands)


def main(measurements, folder):
    with open(measurements, encoding="utf-8") as file:
        rows = [
            {
                "contender": row["contender"],
                "loss": float(row["loss"]),
                "rtt_ms": int(row["rtt_ms"]),
                "latency_ms": int(row["latency_ms"]),
                "residual": float(row["residual"]),
                "overhead": float(row["overhead"]),
            }
            for row in csv.DictReader(file)
        ]
    os.makedirs(folder, exist_ok=True)
    for field, name, title, logarithmic in PLOTS:
        commands = script(rows, field, title, logarithmic)
        drawn = subprocess.run(["gnuplot"], input=commands, text=True, stdout=subprocess.PIPE, check=True)
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(drawn.stdout)
        print(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

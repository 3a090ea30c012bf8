#!/usr/bin/env python3
"""Draws every panel of every dashboard in grafana/dashboards from a running Prometheus, one PNG for each
dashboard, without Grafana. Panels whose queries give nothing are listed at the end, with exit code 1,
unless the panel itself says what that means (noValue)."""

import argparse
import datetime
import json
import math
import pathlib
import re
import sys
import textwrap
import urllib.error
import urllib.parse
import urllib.request

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "grafana" / "dashboards"
# Inches for one unit of a dashboard's grid.
COLUMN, LINE = 1.0, 0.42
POINTS = 240
PALETTE = ["#73bf69", "#5794f2", "#f2cc0c", "#b877d9", "#f2495c", "#3fb8af", "#8d6e63", "#37872d", "#1f60c4",
           "#e0b400", "#c4162a", "#8f3bb8"]
COLORS = {"green": "#37872d", "yellow": "#d9a400", "orange": "#fa6400", "red": "#c4162a", "blue": "#1f60c4",
          "text": "#222222", "transparent": "#ffffff"}
GRID, BORDER, QUIET = "#e6e6e6", "#cccccc", "#777777"


# Prometheus.


class Prometheus:
    def __init__(self, url, start, end, scrape):
        self.url, self.start, self.end = url.rstrip("/"), start, end
        self.step = max(scrape, math.ceil((end - start) / POINTS / scrape) * scrape)
        self.windows = {
            "$__rate_interval": f"{max(self.step + scrape, 4 * scrape)}s",
            "$__range": f"{int(end - start)}s",
            "$__interval": f"{self.step}s",
        }

    def ask(self, path, **parameters):
        data = urllib.parse.urlencode(parameters, doseq=True).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            said = json.load(error).get("error", error.reason)
            raise SystemExit(f"{parameters.get('query', path)}: {said}") from error
        except urllib.error.URLError as error:
            raise SystemExit(f"no Prometheus at {self.url}: {error.reason}") from error

    def label_values(self, selector, label):
        series = self.ask("series", **{"match[]": selector, "start": self.start, "end": self.end})
        return sorted({one[label] for one in series if label in one}, key=lambda value: (len(value), value))

    def vector(self, expr):
        """Labels and value of each series at the end."""
        result = self.ask("query", query=expr, time=self.end)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def matrix(self, expr):
        """Labels, times and values of each series; NaN where there is no sample."""
        result = self.ask("query_range", query=expr, start=self.start, end=self.end, step=self.step)["result"]
        times = [self.start + index * self.step for index in range(int((self.end - self.start) // self.step) + 1)]
        series = []
        for one in result:
            values = {round(float(at)): float(value) for at, value in one["values"]}
            series.append((one["metric"], times, [values.get(round(at), math.nan) for at in times]))
        return series


def variables(dashboard, given, prometheus):
    """What each variable stands for: as given, else all values (or the first one) that Prometheus knows."""
    values = {}
    for variable in dashboard["templating"]["list"]:
        name = variable["name"]
        if variable["type"] != "query":
            continue
        if given.get(name):
            values[name] = given[name]
        elif prometheus is None:
            values[name] = ".*"
        else:
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
            found = [re.escape(value).replace("\\-", "-").replace("\\", "\\\\") for value in
                     prometheus.label_values(substituted(selector, values), label)]
            values[name] = "|".join(found)
            if not variable["multi"]:
                # One that is there at the end, if any is.
                present = {labels.get(label) for labels, _ in prometheus.vector(substituted(selector, values))}
                found.sort(key=lambda value: value not in present)
                values[name] = found[0] if found else ""
    return values


def substituted(text, values):
    for name, value in sorted(values.items(), key=lambda item: -len(item[0])):
        text = text.replace("${%s}" % name.lstrip("$"), value).replace("$" + name.lstrip("$"), value)
    return text


def windows_and(values, prometheus):
    return {**values, **{name.lstrip("$"): value for name, value in prometheus.windows.items()}}


# Values as text.


def number(value, digits=3):
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if rounded == int(rounded) else f"{rounded}"


def scaled(value, base, prefixes, suffix):
    size, at = abs(value), 0
    while size >= base and at < len(prefixes) - 1:
        size, at = size / base, at + 1
    return f"{number(math.copysign(size, value))}{prefixes[at]}{suffix}"


def duration(value):
    for below, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms"), (120, 1, "s"), (7200, 1 / 60, "min"),
                                (172800, 1 / 3600, "h")):
        if abs(value) < below:
            return f"{number(value * factor)} {unit}" if value else "0 s"
    return f"{number(value / 86400)} d"


def formatted(value, unit, decimals=None):
    if math.isnan(value):
        return "–"
    thousands = ["", " K", " M", " G"]
    if unit == "percentunit":
        return f"{number(value * 100) if decimals is None else f'{value * 100:.{decimals}f}'}%"
    if unit in ("s", "dtdurations"):
        return duration(value)
    if unit == "bytes":
        return scaled(value, 1024, [" ", " Ki", " Mi", " Gi"], "B")
    if unit in ("bps", "Bps"):
        return scaled(value, 1000, [" ", " k", " M", " G"], {"bps": "b/s", "Bps": "B/s"}[unit])
    if unit.startswith("suffix:"):
        return number(value) + unit.removeprefix("suffix:")
    suffix = {"pps": " p/s", "cpm": "/min", "cps": "/s", "reqps": " req/s"}.get(unit, "")
    if decimals is not None and abs(value) < 1000:
        return f"{value:.{decimals}f}{suffix}"
    return scaled(value, 1000, thousands, "") + suffix


def mapped(value, mappings):
    """Text and colour that a mapping gives, if one does."""
    for mapping in mappings or []:
        found = mapping["options"].get(number(value))
        if found:
            return found["text"].strip(), color(found["color"])
    return None


def threshold(value, config):
    steps = (config or {}).get("steps") or [{"color": "text", "value": None}]
    reached = [step for step in steps if step["value"] is None or value >= step["value"]]
    return color((reached or steps)[-1]["color"])


def color(name):
    return COLORS.get(name, name)


def legend(target, labels):
    def label(found):
        return labels.get(found[1].strip(), "")

    return re.sub(r"\{\{(.*?)\}\}", label, target["legendFormat"]) or ", ".join(
        f"{key}={value}" for key, value in labels.items() if key != "__name__")


# Panels. Each draws into its axes, and says whether there was data.


def draw_timeseries(axes, panel, prometheus, values):
    from matplotlib import ticker

    defaults = panel["fieldConfig"]["defaults"]
    fixed = {
        override["matcher"]["options"]: color(item["value"]["fixedColor"])
        for override in panel["fieldConfig"]["overrides"]
        for item in override["properties"] if item["id"] == "color"
    }
    series = [
        (legend(target, labels), times, points)
        for target in panel["targets"]
        for labels, times, points in prometheus.matrix(substituted(target["expr"], values))
        if not all(map(math.isnan, points))
    ]
    if not series:
        return False
    free = iter(shade for shade in PALETTE * 10 if shade not in fixed.values())
    shades = [fixed.get(name) or next(free) for name, _, _ in series]
    when = [datetime.datetime.fromtimestamp(at) for at in series[0][1]]
    names = []
    for name, _, points in series:
        known = [point for point in points if not math.isnan(point)]
        last = formatted(known[-1], defaults["unit"])
        names.append(f"{name}  {last} (max {formatted(max(known), defaults['unit'])})")
    if defaults["custom"]["stacking"]["mode"] == "normal":
        whole = [[0 if math.isnan(point) else point for point in points] for _, _, points in series]
        axes.stackplot(when, whole, labels=names, colors=shades, alpha=0.6)
    else:
        for (_, _, points), name, shade in zip(series, names, shades):
            axes.plot(when, points, label=name, color=shade, linewidth=1.3)
    if defaults["custom"]["thresholdsStyle"]["mode"] != "off":
        highest = axes.get_ylim()[1]
        for step in defaults["thresholds"]["steps"][1:]:
            if step["value"] <= highest * 1.5:
                axes.axhline(step["value"], color=color(step["color"]), linestyle="--", linewidth=0.9)
    bottom, top = axes.get_ylim()
    axes.set_ylim(defaults.get("min", bottom), max(defaults.get("max", 0), top * 1.05 if top > 0 else 1))
    axes.set_xlim(when[0], when[-1])
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: formatted(value, defaults["unit"])))
    time_axis(axes)
    axes.grid(axis="y", color=GRID)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.1), fontsize=7.5, frameon=False, handlelength=1,
                ncol=2 if len(names) > 3 else 1, columnspacing=1, labelspacing=0.2)
    return True


def time_axis(axes):
    from matplotlib import dates

    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=8, length=2, colors="#444444")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(BORDER)


def draw_states(axes, panel, prometheus, values):
    from matplotlib import dates

    mappings = panel["fieldConfig"]["defaults"].get("mappings")
    series = [
        (legend(target, labels), times, points)
        for target in panel["targets"]
        for labels, times, points in prometheus.matrix(substituted(target["expr"], values))
    ]
    if not series:
        return False
    for line, (_, times, points) in enumerate(series):
        for at, point in zip(times, points):
            if not math.isnan(point):
                text, shade = mapped(point, mappings) or ("", COLORS["blue"])
                start = dates.date2num(datetime.datetime.fromtimestamp(at))
                if text or shade != COLORS["transparent"]:
                    axes.broken_barh([(start, prometheus.step / 86400)], (line - 0.4, 0.8), color=shade,
                                     linewidth=0)
    axes.set_yticks(range(len(series)), [name for name, _, _ in series])
    axes.set_ylim(len(series) - 0.5, -0.5)
    axes.xaxis_date()
    axes.set_xlim(*(datetime.datetime.fromtimestamp(at) for at in (series[0][1][0], series[0][1][-1])))
    time_axis(axes)
    return True


def draw_stat(axes, panel, prometheus, values):
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    target = panel["targets"][0]
    expr = substituted(target["expr"], values)
    history = None
    if target["instant"]:
        found = prometheus.vector(expr)
    else:
        series = prometheus.matrix(expr)
        found = [(labels, [point for point in points if not math.isnan(point)]) for labels, _, points in series]
        found = [(labels, points[-1]) for labels, points in found if points]
        history = series[0] if series else None
    found = [(labels, value) for labels, value in found if not math.isnan(value)]
    if not found:
        return False
    if history and options["graphMode"] == "area":
        below = axes.inset_axes([0, 0, 1, 0.3])
        below.fill_between(range(len(history[2])), history[2], color="#5794f2", alpha=0.25, linewidth=0)
        below.axis("off")
    size = 22 if len(found) == 1 else 15
    for index, (labels, value) in enumerate(found[:4]):
        text, shade = mapped(value, defaults.get("mappings")) or (
            formatted(value, defaults["unit"], defaults.get("decimals")), None)
        if options["textMode"] == "name":
            text = legend(target, labels)
        if defaults["color"]["mode"] == "fixed":
            shade = shade or color(defaults["color"]["fixedColor"])
        shade = shade or threshold(value, defaults.get("thresholds"))
        axes.text(0.5, 0.58 - 0.22 * (index - (min(len(found), 4) - 1) / 2), text, ha="center", va="center",
                  fontsize=size, fontweight="bold", color=shade, transform=axes.transAxes)
    axes.axis("off")
    return True


def rows_of(panel, prometheus, values):
    """As Grafana's transformations merge and organize do: headings and lines."""
    refs = [target["refId"] for target in panel["targets"]]
    frames = []
    for target in panel["targets"]:
        field = f"Value #{target['refId']}" if len(refs) > 1 else "Value"
        frames.append([{**labels, field: value} for labels, value in
                       prometheus.vector(substituted(target["expr"], values))])
    frames = [frame for frame in frames if frame]
    if not frames:
        return [], []
    shared = set.intersection(*(set(frame[0]) for frame in frames)) if len(frames) > 1 else set(frames[0][0])
    lines = {}
    for frame in frames:
        for one in frame:
            lines.setdefault(tuple(one.get(key) for key in sorted(shared)), {}).update(one)
    organize = next(one["options"] for one in panel["transformations"] if one["id"] == "organize")
    fields = sorted(organize["indexByName"], key=organize["indexByName"].get)
    headings = [organize["renameByName"].get(field, field) for field in fields]
    rows = [dict(zip(headings, (line.get(field) for field in fields))) for line in lines.values()]
    for sort in panel["options"]["sortBy"]:
        rows.sort(key=lambda row: row[sort["displayName"]] if row[sort["displayName"]] is not None else -math.inf,
                  reverse=sort["desc"])
    return headings, rows


def draw_table(axes, panel, prometheus, values):
    axes.axis("off")
    headings, rows = rows_of(panel, prometheus, values)
    if not rows:
        return False
    properties = {
        override["matcher"]["options"]: {item["id"]: item["value"] for item in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    room = max(1, int((panel["gridPos"]["h"] - 1.6) * LINE / 0.21) - 1)
    texts, shades = [], []
    for row in rows[:room]:
        texts.append([])
        shades.append([])
        for heading in headings:
            own, value = properties.get(heading, {}), row[heading]
            shade = "white"
            if isinstance(value, float):
                if "custom.cellOptions" in own:
                    shade = threshold(value, own["thresholds"])
                value = formatted(value, own.get("unit", "short"), own.get("decimals"))
            texts[-1].append("" if value is None else str(value))
            shades[-1].append(shade)
    widths = [max(len(line[at]) for line in [headings, *texts]) + 2 for at in range(len(headings))]
    drawn = axes.table(cellText=texts, colLabels=headings, cellColours=shades, cellLoc="left", colLoc="left",
                       colWidths=[width / sum(widths) for width in widths],
                       bbox=[0, 1 - (len(texts) + 1) / (room + 1), 1, (len(texts) + 1) / (room + 1)])
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)
    for (line, at), cell in drawn.get_celld().items():
        cell.set_edgecolor(GRID)
        if line == 0:
            cell.set_text_props(fontweight="bold", color="#444444")
        elif shades[line - 1][at] in (COLORS["red"], COLORS["orange"]):
            cell.set_text_props(color="white")
    if len(rows) > room:
        axes.text(1, -0.02, f"{len(rows) - room} more", ha="right", va="top", fontsize=7.5, color=QUIET,
                  transform=axes.transAxes)
    return True


DRAW = {"timeseries": draw_timeseries, "state-timeline": draw_states, "stat": draw_stat, "table": draw_table}
# What stays free around the axes, in inches: left, right, bottom, top.
MARGINS = {"timeseries": (0.85, 0.15, 0.85, 0.4), "state-timeline": (1.6, 0.15, 0.3, 0.4),
           "stat": (0.08, 0.08, 0.08, 0.4), "table": (0.12, 0.12, 0.15, 0.4)}


def draw(dashboard, prometheus, values, path):
    """Writes the PNG; titles of panels without data come back."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("matplotlib is needed; on Debian and Ubuntu: apt-get install python3-matplotlib, and "
                         "/usr/bin/python3 scripts/plot-dashboards.py") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) + 1.5
    figure = pyplot.figure(figsize=(24 * COLUMN, height * LINE), facecolor="#f4f5f5")
    wide, high = 24 * COLUMN, height * LINE
    chosen = ", ".join(f"{name} {value}" for name, value in values.items() if not name.startswith("__"))
    figure.text(0.008, 1 - 0.75 * LINE / high, dashboard["title"], fontsize=17, fontweight="bold", va="center")
    until = datetime.datetime.fromtimestamp(prometheus.end).strftime("%Y-%m-%d %H:%M:%S")
    figure.text(0.992, 1 - 0.75 * LINE / high, f"{chosen.replace(chr(92), '')}; until {until}", fontsize=9,
                color=QUIET, va="center", ha="right")
    empty = []
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] * COLUMN, high - (at["y"] + 1.5) * LINE
        across, down = at["w"] * COLUMN, at["h"] * LINE
        title = substituted(panel["title"], values).replace("\\", "")
        if panel["type"] == "row":
            figure.text((left + 0.1) / wide, (top - down / 2) / high, f"▾ {title}", fontsize=12,
                        fontweight="bold", va="center", color="#333333")
            continue
        box = figure.add_axes([(left + 0.05) / wide, (top - down + 0.05) / high, (across - 0.1) / wide,
                               (down - 0.1) / high])
        box.set_xticks([])
        box.set_yticks([])
        for spine in box.spines.values():
            spine.set_color(BORDER)
        figure.text((left + 0.15) / wide, (top - 0.2) / high, title, fontsize=10, fontweight="bold", va="center")
        west, east, south, north = MARGINS[panel["type"]]
        if panel["type"] == "timeseries":
            south = min(0.4 + 0.16 * legend_lines(panel, prometheus, values), down * 0.5)
        if panel["type"] == "state-timeline":
            west = 0.3 + 0.075 * max(map(len, names_of(panel, prometheus, values)), default=10)
        axes = figure.add_axes([(left + west) / wide, (top - down + south) / high, (across - west - east) / wide,
                                (down - south - north) / high])
        if not DRAW[panel["type"]](axes, panel, prometheus, values):
            axes.axis("off")
            said = panel["fieldConfig"]["defaults"].get("noValue")
            if said is None:
                empty.append(panel["title"])
            axes.text(0.5, 0.5, textwrap.fill(said or "no data", 24), ha="center", va="center", fontsize=12,
                      color=QUIET, transform=axes.transAxes)
    figure.savefig(path, dpi=75)
    pyplot.close(figure)
    return empty


def names_of(panel, prometheus, values):
    return [legend(target, labels) for target in panel["targets"]
            for labels, _, _ in prometheus.matrix(substituted(target["expr"], values))]


def legend_lines(panel, prometheus, values):
    """Its lines: two columns from the fourth name on."""
    count = len(names_of(panel, prometheus, values))
    return math.ceil(count / 2) if count > 3 else count


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", metavar="URL", help="default: http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=30, help="length of the time shown (default: 30)")
    parser.add_argument("--from", dest="start", type=moment, help="its start: seconds since 1970, or ISO 8601")
    parser.add_argument("--to", dest="end", type=moment, help="its end (default: now)")
    parser.add_argument("--out", default="target/dashboards", help="folder for the PNGs (default: target/dashboards)")
    parser.add_argument("--scrape-interval", type=int, default=5, help="of the data source, in s (default: 5)")
    for name in ("job", "instance", "viewer", "process"):
        parser.add_argument(f"--{name}", help=f"value of the variable {name}, a regular expression")
    parser.add_argument("--allow-empty", action="store_true", help="exit with 0 although panels have no data")
    parser.add_argument("--list-queries", action="store_true",
                        help="print all queries as JSON instead; without --prometheus, variables match anything")
    return parser.parse_args()


def moment(text):
    try:
        return float(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text).timestamp()


def main():
    asked = arguments()
    now = datetime.datetime.now().timestamp()
    end = asked.end or (asked.start + asked.minutes * 60 if asked.start else now)
    start = asked.start or end - asked.minutes * 60
    prometheus = Prometheus(asked.prometheus or "http://127.0.0.1:9090", math.floor(start), math.floor(end),
                            asked.scrape_interval)
    given = {name: getattr(asked, name) for name in ("job", "instance", "viewer", "process")}
    offline = asked.list_queries and not asked.prometheus
    queries, empty = [], []
    for file in sorted(FOLDER.glob("*.json")):
        dashboard = json.loads(file.read_text(encoding="utf-8"))
        chosen = variables(dashboard, given, None if offline else prometheus)
        values = windows_and(chosen, prometheus)
        if asked.list_queries:
            queries += [
                {"dashboard": dashboard["uid"], "panel": panel["title"], "ref": target["refId"],
                 "expr": substituted(target["expr"], values),
                 "may_be_empty": "noValue" in panel["fieldConfig"]["defaults"]}
                for panel in dashboard["panels"] for target in panel.get("targets", [])
            ]
            continue
        out = pathlib.Path(asked.out)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{file.stem}.png"
        empty += [f"{file.stem}: {title}" for title in draw(dashboard, prometheus, values, path)]
        print(path)
    if asked.list_queries:
        print(json.dumps(queries, indent=2))
    for title in empty:
        print(f"no data: {title}", file=sys.stderr)
    sys.exit(1 if empty and not asked.allow_empty else 0)


if __name__ == "__main__":
    main()

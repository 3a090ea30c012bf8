"""Grafana's dashboard model, as far as the dashboards need it: variables, queries, panels, layout."""

import re

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

# Seconds between scrapes and the resolution on the screen decide both.
RATE = "$__rate_interval"
RANGE = "$__range"

BAD_LOSS = [(None, "green"), (0.02, "yellow"), (0.05, "red")]
NEVER = [(None, "green"), (1, "red")]
SELDOM = [(None, "green"), (1, "yellow")]

YES = "green"
NO = "red"
QUANTILES = [("median", 0.5), ("95%", 0.95), ("99%", 0.99)]

DASHBOARDS = [
    ("Broadcast overview", "punchcast-overview"),
    ("One viewer", "punchcast-viewer"),
    ("Rendezvous", "punchcast-rendezvous"),
]


# Queries. In an expression, `metric@` stands for the dashboard's own selector, `metric@name` for
# another one of its selectors, and `metric@{label="x"}` adds matchers.


def query(expr, legend="", instant=False):
    return {"expr": expr, "legend": legend, "instant": instant}


def rate(metric, by="", window=RATE):
    return f"{total(by)}(rate({metric}[{window}]))"


def per_minute(metric, by="", legend=""):
    return query(f"60 * {rate(metric, by)}", legend)


def count(metric, by="", window=RANGE):
    """How often something happened in the time shown."""
    return f"{total(by)}(increase({metric}[{window}]))"


def share(part, whole):
    """Nothing where there is no whole."""
    return f"{part} / ({whole} > 0)"


def total(by):
    return f"sum by ({by}) " if by else "sum"


def quantiles(metric, wanted=QUANTILES, window=RATE):
    """`metric` is a histogram's name without suffix, with its selector."""
    buckets = rate(metric.replace("@", "_bucket@", 1), "le", window)
    return [query(f"histogram_quantile({part}, {buckets})", name) for name, part in wanted]


# Panels.


def panel(kind, title, description, queries, unit, width, height, **more):
    return {
        "type": kind,
        "title": title,
        "description": description,
        "queries": queries if isinstance(queries, list) else [queries],
        "unit": unit,
        "width": width,
        "height": height,
        **more,
    }


def stat(title, description, queries, unit, thresholds=None, *, width=4, height=4, decimals=None,
         mappings=(), none=None, names=False, graph=True):
    """A number. `names`: the legend is what is shown. `none`: what an empty answer means."""
    color = {"mode": "thresholds"} if thresholds else {"mode": "fixed", "fixedColor": "blue"}
    options = {
        "colorMode": "value",
        "graphMode": "area" if graph and not names else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "name" if names else "auto",
        "wideLayout": True,
    }
    return panel("stat", title, description, queries, unit, width, height, options=options,
                 color=color, thresholds=thresholds, decimals=decimals, mappings=mappings, none=none)


def graph(title, description, queries, unit, thresholds=None, *, width=8, height=8, stacked=False,
          highest=None, colors=None, links=(), none=None):
    """Lines over time. `thresholds` are drawn as dashed lines; `colors` are by name of the series."""
    custom = {
        "axisPlacement": "auto",
        "drawStyle": "line",
        "fillOpacity": 25 if stacked else 8,
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "list",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [
        override(name, [("color", {"fixedColor": color, "mode": "fixed"})])
        for name, color in (colors or {}).items()
    ]
    return panel("timeseries", title, description, queries, unit, width, height, options=options,
                 color={"mode": "palette-classic"}, thresholds=thresholds, custom=custom, lowest=0,
                 highest=highest, overrides=overrides, links=links, none=none)


def states(title, description, queries, mappings, *, width=8, height=6, none=None):
    """A line for each series, coloured by what it was when."""
    options = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel("state-timeline", title, description, queries, "none", width, height, options=options,
                 color={"mode": "thresholds"}, thresholds=[(None, "text")], mappings=mappings,
                 custom={"fillOpacity": 80, "lineWidth": 0}, none=none)


def table(title, description, queries, columns, *, width=24, height=9, sort=None, none=None):
    """One line for each set of labels. `columns`: field, heading, and properties of the column; the
    value of query A is the field `Value #A`, or `Value` if it is the only one. No heading: hidden."""
    for one in queries:
        one["instant"] = True
    options = {
        "cellHeight": "sm",
        "frameIndex": 0,
        "showHeader": True,
        "sortBy": [{"desc": True, "displayName": sort}] if sort else [],
    }
    overrides = [override(heading, properties) for _, heading, properties in columns if properties]
    hidden = ["Time"] + [field for field, heading, _ in columns if heading is None]
    shown = [(field, heading) for field, heading, _ in columns if heading is not None]
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {field: True for field in hidden},
                "indexByName": {field: index for index, (field, _) in enumerate(shown)},
                "renameByName": dict(shown),
            },
        },
    ]
    return panel("table", title, description, queries, "short", width, height, options=options,
                 color={"mode": "thresholds"}, thresholds=[(None, "text")], overrides=overrides,
                 custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
                 transformations=transformations, none=none)


def override(name, properties):
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties],
    }


def coloured(steps):
    """A column whose cells are coloured by value."""
    return [
        ("thresholds", {"mode": "absolute", "steps": steps_of(steps)}),
        ("custom.cellOptions", {"mode": "basic", "type": "color-background"}),
    ]


def steps_of(thresholds):
    return [{"color": color, "value": value} for value, color in thresholds]


def named(values):
    """Mapping of values to text and colour."""
    options = {
        str(value): {"color": color, "index": index, "text": text}
        for index, (value, text, color) in enumerate(values)
    }
    return [{"options": options, "type": "value"}]


READY = named([(0, "not ready", NO), (1, "ready", YES)])
NOW = named([(0, " ", "transparent"), (1, "now", YES)])


def link(title, url):
    return {"targetBlank": False, "title": title, "url": url}


# Dashboards.


def row(title):
    return {"type": "row", "title": title}


def variable(name, label, values, **more):
    """One that Prometheus answers; several values at once unless told otherwise."""
    several = more.pop("several", True)
    current = {"text": ["All"], "value": ["$__all"]} if several else {"text": "", "value": ""}
    return {
        "current": current,
        "datasource": DATASOURCE,
        "definition": values,
        "hide": 0,
        "includeAll": several,
        "label": label,
        "multi": several,
        "name": name,
        "options": [],
        "query": {"query": values, "refId": name},
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
        "type": "query",
        **more,
    }


def datasource():
    return {
        "current": {},
        "hide": 0,
        "includeAll": False,
        "label": "Data source",
        "multi": False,
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
        "type": "datasource",
    }


def dashboard(uid, title, description, variables, selectors, contents):
    return {
        "annotations": {"list": []},
        "description": description,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [to_dashboard(name, other) for name, other in DASHBOARDS if other != uid],
        "panels": laid_out(contents, selectors),
        "refresh": "10s",
        "schemaVersion": 39,
        "tags": ["punchcast"],
        "templating": {"list": [datasource(), *variables]},
        "time": {"from": "now-30m", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
        "weekStart": "",
    }


def to_dashboard(title, uid):
    return {
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": False,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
        "title": title,
        "tooltip": "",
        "type": "link",
        "url": f"/d/{uid}?${{datasource:queryparam}}&${{job:queryparam}}",
    }


def laid_out(contents, selectors):
    """Panels from left to right, in lines of 24 columns; a row begins a new line."""
    panels, x, y, tallest = [], 0, 0, 0
    for number, content in enumerate(contents, start=1):
        width, height = content.get("width", 24), content.get("height", 1)
        if x + width > 24:
            x, y, tallest = 0, y + tallest, 0
        position = {"h": height, "w": width, "x": x, "y": y}
        x, tallest = x + width, max(tallest, height)
        if content["type"] == "row":
            panels.append({
                "collapsed": False,
                "gridPos": position,
                "id": number,
                "panels": [],
                "title": content["title"],
                "type": "row",
            })
        else:
            panels.append(rendered(content, number, position, selectors))
    return panels


def rendered(content, number, position, selectors):
    defaults = {"color": content["color"], "unit": content["unit"]}
    optional = {
        "custom": content.get("custom"),
        "decimals": content.get("decimals"),
        "links": list(content.get("links") or []),
        "mappings": list(content.get("mappings") or []),
        "max": content.get("highest"),
        "min": content.get("lowest"),
        "noValue": content.get("none"),
    }
    defaults.update({key: value for key, value in optional.items() if value not in (None, [])})
    if content.get("thresholds"):
        defaults["thresholds"] = {"mode": "absolute", "steps": steps_of(content["thresholds"])}
    made = {
        "datasource": DATASOURCE,
        "description": content["description"],
        "fieldConfig": {"defaults": defaults, "overrides": content.get("overrides") or []},
        "gridPos": position,
        "id": number,
        "options": content["options"],
        "targets": [
            target(one, ref, content["type"], selectors)
            for ref, one in zip("ABCDEFGHIJ", content["queries"], strict=False)
        ],
        "title": content["title"],
        "type": content["type"],
    }
    if content.get("transformations"):
        made["transformations"] = content["transformations"]
    return made


def target(one, ref, kind, selectors):
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": selected(one["expr"], selectors),
        "format": "table" if kind == "table" else "time_series",
        "instant": one["instant"],
        "legendFormat": one["legend"],
        "range": not one["instant"],
        "refId": ref,
    }


def selected(expr, selectors):
    def matchers(found):
        parts = [selectors[found[1]], found[2]]
        return "{" + ",".join(part for part in parts if part) + "}"

    return re.sub(r"(?<=\w)@([a-z]*)(?:\{([^}]*)\})?", matchers, expr)

"""Judges the dashboard, whose path is given: Grafana's own types read it and give it back unchanged, and the rules of Grafana's
dashboard-linter hold, written again here because the linter is no Python package. Prints what is wrong, exit status 1."""

import json
import pathlib
import re
import sys

import promql_parser
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from promql_selectors import selectors

# Metrics whose selectors can't have a job or an instance, with the reason.
WITHOUT = {
    "ALERTS": {"instance"},  # an alert about all workers has none
    "instant_connect:late:ratio_rate1h": {"instance"},  # the objective is about all workers of a job
}
# Panels with a fixed window, which their title names.
FIXED_WINDOW = {"Links in the last hour", "On time in the last hour", "Error budget left (30 days)"}
# Kinds of panels whose queries share no axis.
OF_MANY_UNITS = {"table"}


# What Prometheus's plug-in reads of an annotation, which Grafana's types, being of no plug-in, leave out.
OF_THE_PLUGIN = {"useValueForTime", "titleFormat", "step"}


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def unknown_keys(dashboard):
    """Every key and value that Grafana's types do not read and write back unchanged."""
    # Without them, queries and panels' options would pass unread.
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    return lost(dashboard, read, "$")


def lost(before, after, path):
    """Every key and value of `before` that is not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                if value not in (None, [], {}) and not (key in OF_THE_PLUGIN and ".annotations." in path):
                    yield f"{path}.{key} is unknown to Grafana's types"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, pair in enumerate(zip(before, after)):
            yield from lost(*pair, f"{path}[{i}]")
    elif before != after:
        yield f"{path}: {before!r} comes back as {after!r}"


def lint(dashboard):
    seen = set()
    for panel in panels(dashboard):
        title = panel["title"]
        if title in seen:
            yield f"two panels are called {title}"
        seen.add(title)
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{title}: no description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{title}: no unit"
        if panel["datasource"]["uid"] != "${datasource}":
            yield f"{title}: not of the data source that is chosen"
        if panel["type"] == "stat" and len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) < 2:
            yield f"{title}: no thresholds"
        if panel["type"] == "timeseries" and (panel["options"]["legend"]["displayMode"], panel["options"]["legend"]["calcs"]) != ("table", ["lastNotNull", "max"]):
            yield f"{title}: its legend is no table of last and most"
        for target in panel["targets"]:
            yield from expression(title, target["expr"], panel["type"])
    for annotation in dashboard["annotations"]["list"]:
        yield from expression(annotation["name"], annotation["expr"], "annotation")
    for variable in dashboard["templating"]["list"]:
        if "definition" in variable:
            yield f"{variable['name']}: definition is what Grafana writes itself"
    if dashboard["editable"]:
        yield "it can be edited, and the next release would take that away"


def expression(title, text, kind):
    windows = set(re.findall(r"\[([^\]]+)\]", text)) - {"$__rate_interval"}
    if windows and title not in FIXED_WINDOW:
        yield f"{title}: {windows} in place of $__rate_interval"
    plain = re.sub(r"\$__rate_interval", "5m", text)
    for selector in selectors(promql_parser.parse(plain)):
        matchers = {matcher.name: (str(matcher.op), matcher.value) for matcher in selector.matchers.matchers}
        name = selector.name or ""
        for label in {"namespace", "job", "instance"} - WITHOUT.get(name, set()):
            if f"${label}" not in matchers.get(label, ("", ""))[1]:
                yield f"{title}: {name} has no {label}"
    if kind == "timeseries" and "_seconds" in text and "histogram_quantile" not in text and "_total" not in text and "_count" not in text and "oldest" not in text:
        yield f"{title}: seconds among others"


def runbook(dashboard, text):
    """Every title that the runbook names in italics, with a capital, is on the dashboard."""
    titles = {panel["title"] for panel in panels(dashboard)}
    # Columns of the table of workers are named too.
    for panel in panels(dashboard):
        for transformation in panel.get("transformations", []):
            titles |= set(transformation["options"].get("renameByName", {}).values())
    for name in re.findall(r"(?<!\*)\*([A-Z][^*\n]*(?:\n[^*\n]+)?)\*(?!\*)", text):
        name = " ".join(name.split())
        if name not in titles and name not in ("Targets",):
            yield f"the runbook names {name}, which the dashboard does not have"


def main():
    chart = pathlib.Path(sys.argv[1])
    dashboard = json.loads((chart / "files/dashboard.json").read_text())
    wrong = [*unknown_keys(dashboard), *lint(dashboard), *runbook(dashboard, (chart / "RUNBOOK.md").read_text())]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


main()

"""Checks the dashboard of the given chart: Grafana's own types read and write it unchanged, and the rules of Grafana's
dashboard-linter hold. The rules are reimplemented here because the linter is not a Python package. Prints errors with exit status 1."""

import json
import pathlib
import re
import sys

import promql_parser
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from promql_selectors import selectors

# Labels that the selectors of a metric can't have, with the reason.
WITHOUT = {
    "ALERTS": {"instance"},  # an alert about all workers has no instance
    "instant_connect:late:ratio_rate1h": {"instance"},  # the objective covers all workers of a job
}
# Panels with a fixed window, which their title names.
FIXED_WINDOW = {"Links in the last hour", "On time in the last hour", "Error budget left (30 days)"}
# Panel types whose queries share no axis.
OF_MANY_UNITS = {"table"}


# Fields of an annotation that Prometheus's plug-in reads, and that Grafana's types do not contain.
OF_THE_PLUGIN = {"useValueForTime", "titleFormat", "step"}


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def unknown_keys(dashboard):
    """Yields every key and value that Grafana's types do not read and write unchanged."""
    # Without the plug-ins, queries and panel options would not be checked.
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    return lost(dashboard, read, "$")


def lost(before, after, path):
    """Yields every key and value of `before` that `after` lacks."""
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
        yield f"{path}: {before!r} becomes {after!r}"


def lint(dashboard):
    seen = set()
    for panel in panels(dashboard):
        title = panel["title"]
        if title in seen:
            yield f"two panels have the title {title}"
        seen.add(title)
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield f"{title}: no description"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{title}: no unit"
        if panel["datasource"]["uid"] != "${datasource}":
            yield f"{title}: the data source is not the chosen one"
        if panel["type"] == "stat" and len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) < 2:
            yield f"{title}: no thresholds"
        if panel["type"] == "timeseries" and (panel["options"]["legend"]["displayMode"], panel["options"]["legend"]["calcs"]) != ("table", ["lastNotNull", "max"]):
            yield f"{title}: the legend is not a table of last and maximum"
        for target in panel["targets"]:
            yield from expression(title, target["expr"], panel["type"])
    for annotation in dashboard["annotations"]["list"]:
        yield from expression(annotation["name"], annotation["expr"], "annotation")
    for variable in dashboard["templating"]["list"]:
        if "definition" in variable:
            yield f"{variable['name']}: Grafana writes the field definition itself; remove it"
    if dashboard["editable"]:
        yield "the dashboard is editable, but the next release would overwrite the changes"


def expression(title, text, kind):
    windows = set(re.findall(r"\[([^\]]+)\]", text)) - {"$__rate_interval"}
    if windows and title not in FIXED_WINDOW:
        yield f"{title}: {windows} instead of $__rate_interval"
    plain = re.sub(r"\$__rate_interval", "5m", text)
    for selector in selectors(promql_parser.parse(plain)):
        matchers = {matcher.name: (str(matcher.op), matcher.value) for matcher in selector.matchers.matchers}
        name = selector.name or ""
        for label in {"namespace", "job", "instance"} - WITHOUT.get(name, set()):
            if f"${label}" not in matchers.get(label, ("", ""))[1]:
                yield f"{title}: {name} has no {label}"
    if kind == "timeseries" and "_seconds" in text and "histogram_quantile" not in text and "_total" not in text and "_count" not in text and "oldest" not in text:
        yield f"{title}: seconds mixed with other units"


def runbook(dashboard, text):
    """Yields every capitalised title in italics in the runbook that the dashboard lacks."""
    titles = {panel["title"] for panel in panels(dashboard)}
    # The runbook also names columns of the table of workers.
    for panel in panels(dashboard):
        for transformation in panel.get("transformations", []):
            titles |= set(transformation["options"].get("renameByName", {}).values())
    for name in re.findall(r"(?<!\*)\*([A-Z][^*\n]*(?:\n[^*\n]+)?)\*(?!\*)", text):
        name = " ".join(name.split())
        if name not in titles and name not in ("Targets",):
            yield f"the runbook names {name}, which is missing on the dashboard"


def main():
    chart = pathlib.Path(sys.argv[1])
    dashboard = json.loads((chart / "files/dashboard.json").read_text())
    wrong = [*unknown_keys(dashboard), *lint(dashboard), *runbook(dashboard, (chart / "RUNBOOK.md").read_text())]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


main()

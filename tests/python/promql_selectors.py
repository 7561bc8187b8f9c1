"""Reads Prometheus rules as YAML from standard input. Prints each selector of their expressions as JSON with its metric and matchers."""

import json
import re
import sys

import promql_parser
import yaml


def selectors(node):
    """Yields every vector selector below a node of any type."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "param", "args", "vector_selector", "vs", "selector"):
        below = getattr(node, name, None)
        for child in below if isinstance(below, (list, tuple)) else [below]:
            if child is not None and not isinstance(child, (str, int, float)):
                yield from selectors(child)


def main():
    found = []
    for group in yaml.safe_load(sys.stdin)["groups"]:
        for rule in group["rules"]:
            metrics = re.findall(r"\b(?:instant_connect[\w:]*|process_\w+|up)\b(?=[{\[\s)]|$)", re.sub(r'"[^"]*"', "", rule["expr"]))
            here = list(selectors(promql_parser.parse(rule["expr"])))
            # A node type that this walk does not know would hide its selectors.
            assert len(here) == len(metrics), (rule["expr"], [str(selector) for selector in here])
            for selector in here:
                operators = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
                matchers = {m.name: operators[str(m.op).split(".")[-1]] + m.value for m in selector.matchers.matchers}
                found.append({"metric": selector.name, "matchers": matchers})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

"""Reads YAML, such as Helm's output, from standard input.

  chart_objects.py json [FILE]          prints the objects as a JSON list; reads FILE instead of standard input if given
  chart_objects.py validate VERSION…    validates each object strictly against Kubernetes' schemas of these versions, and custom
                                        resources against tests/chart/crds; prints errors with exit status 1
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

CRDS = pathlib.Path(__file__).parent.parent / "chart/crds"


class Loader(yaml.CSafeLoader):
    """Refuses duplicate keys, because YAML readers differ in the value that they use."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate keys: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def problems(thing, versions):
    group, _, version = thing["apiVersion"].rpartition("/")
    schema = CRDS / group / f"{thing['kind'].lower()}_{version}.json"
    if schema.exists():
        for error in jsonschema.Draft202012Validator({**json.loads(schema.read_text()), "additionalProperties": False}).iter_errors(thing):
            yield f"{error.json_path}: {error.message}"
        return
    for version in versions:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{version}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{version}: {error}"


def main():
    source = pathlib.Path(sys.argv[2]).read_text() if sys.argv[1:2] == ["json"] and sys.argv[2:] else sys.stdin
    things = [thing for thing in yaml.load_all(source, Loader) if thing is not None]
    if sys.argv[1] == "json":
        json.dump(things, sys.stdout)
        return
    wrong = [f"{thing['kind']} {thing['metadata']['name']}: {problem}" for thing in things for problem in problems(thing, sys.argv[2:])]
    print(*wrong, sep="\n", end="" if not wrong else "\n")
    sys.exit(1 if wrong else 0)


main()

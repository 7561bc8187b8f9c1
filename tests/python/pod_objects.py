"""Converts the chart's objects from standard input to YAML that podman 4.3 can play.

  pod_objects.py FOLDER USER [again]   each Secret's files are FOLDER/NAME/KEY, which a test can replace; USER is an arbitrary uid

Changes for podman, each with its reason:
- hostNetwork and no ports: without it a pod needs a network plug-in; with it the pod reaches the test's broker and sandbox on
  loopback. The httpGet probes are removed, because podman runs them with a curl that the image lacks; the test checks health itself.
- A Secret is a folder of the host: podman mounts a Secret's data undecoded, and never updates it while a pod runs.
- The uid with group 0, as OpenShift assigns it: podman takes both from the security context and does not support fsGroup.
- No resources: a test's cgroup may have no controllers.
- Kinds that podman does not play (policies, accounts, budgets) are removed. `again` also removes the volume claim, because podman
  would create its volume and fails if the volume exists.
"""

import json
import sys

import yaml

PLAYED = {"ConfigMap", "PersistentVolumeClaim", "Deployment"}


def main():
    folder, user = sys.argv[1], int(sys.argv[2])
    played = PLAYED - {"PersistentVolumeClaim"} if sys.argv[3:] == ["again"] else PLAYED
    things = [thing for thing in yaml.safe_load_all(sys.stdin) if thing and thing["kind"] in played]
    for thing in things:
        if thing["kind"] != "Deployment":
            continue
        spec = thing["spec"]["template"]["spec"]
        spec["hostNetwork"] = True
        spec.pop("serviceAccountName", None)
        spec["securityContext"].update({"runAsUser": user, "runAsGroup": 0})
        for volume in spec["volumes"]:
            if "secret" in volume:
                name = volume.pop("secret")["secretName"]
                volume["hostPath"] = {"path": f"{folder}/{name}", "type": "Directory"}
        for container in spec["containers"]:
            container["image"] = f"localhost/{container['image']}"
            container["imagePullPolicy"] = "Never"
            container["securityContext"].update({"runAsUser": user, "runAsGroup": 0})
            for key in ("ports", "livenessProbe", "readinessProbe", "resources"):
                container.pop(key, None)
    print("\n---\n".join(json.dumps(thing) for thing in things))


main()

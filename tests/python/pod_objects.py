"""Turns the chart's objects, on standard input, into what podman 4.3 plays; prints YAML.

  pod_objects.py FOLDER USER [again]   each Secret's files are FOLDER/NAME/KEY, which a test can replace; USER is an arbitrary uid

Podman's ways, each with its reason:
- hostNetwork, and no ports: without it a pod needs a network plug-in, and with it the broker and the sandbox of a test, on loopback,
  are reached. The test asks the pod itself, so that httpGet probes, which podman runs with a curl that the image has not, go.
- A Secret is a folder of the host: podman mounts a Secret's data as it stands, undecoded, and never changes it while a pod runs.
- The uid with group 0, as OpenShift chooses one: podman takes both from the security context, and knows no fsGroup.
- No resources: the cgroup of a test may have no controllers.
- Kinds that podman does not play (policies, accounts, budgets) go. `again` leaves out the volume claim, too: podman makes its volume,
  and refuses to when it is there already.
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

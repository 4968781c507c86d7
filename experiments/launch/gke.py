"""`launch gke`: a JobSet for TPU node pools of a Kubernetes cluster.

A job of the set is a slice, a pod is a host with its chips. GKE gives every pod its place among the others
(TPU_WORKER_ID, TPU_WORKER_HOSTNAMES and, between slices, MEGASCALE_*), from which jax.distributed starts. A pod that
fails restarts the whole set, and the run goes on from its last save; a user's mistake (exit code 2) ends it.
"""

import json
import re
import subprocess

import yaml  # JAX's own libraries bring it: flax and ml-collections require it

from cnn.errors import UserError
from cnn.flags import Parser
from experiments.launch import command as commands
from experiments.launch import hardware
from experiments.launch.gcloud import Runner, found
from experiments.launch.outcome import EXIT_MISTAKE
from experiments.launch.plan import Command, Plan, flag
from experiments.launch.record import Launch

IMAGE = re.compile(r"[a-z0-9][\w./:@-]{0,254}")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
GRACE_S = 300  # for the last save, after Kubernetes said that the pod must go
COORDINATOR, METRICS = 8471, 8431  # ports of libtpu: between hosts, and of its counters


def flags(parser: Parser) -> None:
    """The flags of this target."""
    parser.add_argument("--kind", required=True, help=f"of TPU: {', '.join(hardware.KINDS)}")
    parser.add_argument("--topology", required=True, help="of a slice's chips, for instance 4x4 or 2x2x4")
    parser.add_argument("--slices", type=int, default=1, help="node pools of this topology")
    parser.add_argument("--image", required=True, help="container image with the project installed")
    parser.add_argument("--spot", action="store_true", help="node pools of Spot VMs")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--service-account", default="", help="of Kubernetes, with access to the bucket")
    parser.add_argument("--bucket", default="", help="for the run's folder: gs://BUCKET/NAME")
    parser.add_argument("--max-restarts", type=int, default=100)


def workdir(launch: Launch) -> str:
    """Where the run's folder is, unless the command says."""
    if not launch.options["bucket"]:
        raise UserError("give --bucket=BUCKET, or a --workdir=gs://BUCKET/FOLDER after '--'")
    return f"{commands.CLOUD}{launch.options['bucket']}/{launch.name}"


def jobset(launch: Launch) -> dict:
    """The manifest as plain data.

    Raises:
      UserError: a value that Kubernetes would not take.
    """
    options = launch.options
    part = hardware.of_topology(options["kind"], options["topology"])
    if not IMAGE.fullmatch(options["image"]):
        raise UserError(f"--image {options['image']!r} is no name of a container image")
    for name in ("namespace", "service_account"):
        if options[name] and not LABEL.fullmatch(options[name]):
            raise UserError(f"--{name.replace('_', '-')} {options[name]!r}: lower-case letters, digits and '-'")
    if options["slices"] < 1 or options["max_restarts"] < 0:
        raise UserError("--slices is at least 1, --max-restarts at least 0")
    selector = {
        "cloud.google.com/gke-tpu-accelerator": hardware.KINDS[options["kind"]].pool,
        "cloud.google.com/gke-tpu-topology": options["topology"],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_S,
        "nodeSelector": selector | ({"cloud.google.com/gke-spot": "true"} if options["spot"] else {}),
        "containers": [
            {
                "name": "train",
                "image": options["image"],
                # Kubernetes would put variables in place of $(NAME); $$ stands for one $
                "command": [word.replace("$(", "$$(") for word in commands.words(launch.command, "python")],
                "env": [{"name": "CNN_DISTRIBUTED", "value": "1"}],
                "ports": [{"containerPort": COORDINATOR}, {"containerPort": METRICS}],
                "resources": {"limits": {"google.com/tpu": part.chips_per_host}},
            }
        ],
    }
    if options["slices"] > 1:  # what crosses between slices takes the hosts' own network
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if options["service_account"]:
        pod["serviceAccountName"] = options["service_account"]
    mistake = {"containerName": "train", "operator": "In", "values": [EXIT_MISTAKE]}
    job = {
        "parallelism": part.hosts,
        "completions": part.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one pod less and the slice's collectives hang: all of it is started again
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": mistake}]},
        "template": {"spec": pod},
    }
    ends = {"name": "usersMistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": launch.name,
            "namespace": options["namespace"],
            # a job for each node pool, and no two in one
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": options["max_restarts"], "rules": [ends]},
            "replicatedJobs": [{"name": "slice", "replicas": options["slices"], "template": {"spec": job}}],
        },
    }


def plan(launch: Launch) -> Plan:
    """The manifest, and how it is applied, looked at and deleted.

    Raises:
      UserError: a value that Kubernetes would not take.
    """
    commands.needs_cloud(launch.command)
    path = launch.folder / "jobset.yaml"
    options = launch.options
    part = hardware.of_topology(options["kind"], options["topology"])
    space = flag("namespace", options["namespace"])
    labels = f"jobset.sigs.k8s.io/jobset-name={launch.name}"
    ask = ("kubectl", "get", "jobset", launch.name, space, "--output=json")
    show = ("kubectl", "logs", space, flag("selector", labels), "--prefix", flag("max-log-requests", 256))
    hosts = f"{options['slices']} x {part.hosts} pod(s) with {part.chips_per_host} chip(s) each"
    facts = (
        ("workdir", commands.workdir(launch.command)),
        ("pods", hosts),
        ("cost", "that of the node pools, while they are there"),
    )
    return Plan(
        f"{launch.name}: {options['slices']} slice(s) {options['kind']} {options['topology']} on Kubernetes",
        tuple((what, value) for what, value in facts if value),
        ((str(path), yaml.safe_dump(jobset(launch), sort_keys=False)),),
        (
            Command("apply", ("kubectl", "apply", flag("filename", path)), "creates the JobSet", "delete"),
            Command("ask", ask, "for `status`"),
            Command("show", show, "for `logs`"),
            Command(
                "delete", ("kubectl", "delete", "jobset", launch.name, space), "for `stop`; each pod saves first"
            ),
        ),
    )


def run(launch: Launch) -> int:
    """Applies the manifest; Kubernetes does the rest."""
    Runner(launch.folder).run(plan(launch).one("apply"))
    launch.move("applied", f"see: status {launch.name}")
    return 0


def status(launch: Launch) -> str:
    """What Kubernetes says about the set."""
    text = Runner(launch.folder).run(plan(launch).one("ask"), attempts=1, fine=("gone",))
    if not text:
        return "no such JobSet in the cluster"
    said = json.loads(text).get("status", {})
    state = said.get("terminalState") or ("running" if said.get("replicatedJobsStatus") else "waiting")
    return f"{state}, {said.get('restarts', 0)} restart(s)"


def stop(launch: Launch) -> None:
    """Deletes the set."""
    Runner(launch.folder).run(plan(launch).one("delete"), fine=("gone",))
    launch.move("stopped")


def logs(launch: Launch, lines: int, follow: bool) -> int:
    """Prints what the pods said."""
    show = plan(launch).one("show")
    words = (*show.argv[1:], flag("tail", lines), *(["--follow"] if follow else []))
    return subprocess.call([found(show.argv[0]), *words])

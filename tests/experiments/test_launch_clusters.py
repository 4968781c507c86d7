"""`launch slurm` and `launch gke`: what is submitted, checked by bash and by the JobSet schema."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnn.errors import UserError
from experiments.launch import gke, hardware
from experiments.launch.__main__ import main
from experiments.launch.record import Launch

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests" / "support" / "jobset_schema.json").read_text())
CONFIG = "--config=configs/classification/digits_resnet.py"
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def problems(value: Any, schema: dict, where: str = "") -> list[str]:
    """What a structural schema of Kubernetes says against a value; unknown fields are wrong too."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, TYPES[kind]) and (kind != "integer" or type(value) is int) for kind in kinds):
        return [f"{where}: {value!r} is no {' or '.join(kinds)}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value} is below {schema['minimum']}")
    if isinstance(value, dict):
        found += [f"{where}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, child in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            found += problems(child, inner, f"{where}.{name}") if inner else [f"{where}.{name}: unknown field"]
    for index, child in enumerate(value if isinstance(value, list) else ()):
        found += problems(child, schema["items"], f"{where}[{index}]")
    return found


def jobset(**changes: Any) -> Launch:
    options = {
        "kind": "v5e",
        "topology": "4x4",
        "slices": 1,
        "image": "europe-docker.pkg.dev/p/r/cnn:1",
        "spot": False,
    }
    options |= {"namespace": "default", "service_account": "", "bucket": "bucket", "max_restarts": 100}
    command = changes.pop("command", [CONFIG, "--workdir=gs://bucket/run1"])
    return Launch("run1", "gke", options | changes, command)


POOLS = [
    ("v5e", "1x1", 1, 1),
    ("v5e", "2x2", 1, 4),
    ("v5e", "2x4", 1, 8),
    ("v5e", "4x4", 4, 4),
    ("v5e", "16x16", 64, 4),
    ("v4", "2x2x1", 1, 4),
    ("v4", "2x2x2", 2, 4),
    ("v5p", "4x4x4", 16, 4),
    ("v6e", "4x8", 8, 4),
    ("tpu7x", "2x2x2", 2, 4),
]


@pytest.mark.parametrize("kind, topology, pods, chips", POOLS)
@pytest.mark.parametrize("more", [{}, {"slices": 2, "spot": True, "service_account": "trainer"}])
def test_the_manifest_fits_the_schema(kind, topology, pods, chips, more):
    made = jobset(kind=kind, topology=topology, **more)
    (_, text), *_ = gke.plan(made).files
    manifest = yaml.safe_load(text)
    assert manifest == gke.jobset(made)
    assert problems(manifest, SCHEMA) == []
    group = manifest["spec"]["replicatedJobs"][0]
    job = group["template"]["spec"]
    pod = job["template"]["spec"]
    assert (group["replicas"], job["parallelism"], job["completions"]) == (more.get("slices", 1), pods, pods)
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == hardware.KINDS[kind].pool
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == bool(more)
    assert pod["containers"][0]["command"] == ["python", "-m", "cnn.train", CONFIG, "--workdir=gs://bucket/run1"]


@pytest.mark.parametrize(
    "path, value, said",
    [
        (("kind",), "Jobset", "is none of"),
        (("spec", "failurePolicy", "maxRestarts"), "3", "is no integer"),
        (("spec", "failurePolicy", "rules", 0, "name"), "a-b", "does not match"),
        (("spec", "replicatedJobs", 0, "template", "spec", "paralelism"), 1, "unknown field"),
        (
            ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0, "name"),
            None,
            "is no string",
        ),
        (("metadata", "name"), "run 1", "does not match"),
    ],
)
def test_the_schema_finds_what_is_wrong(path, value, said):
    manifest = gke.jobset(jobset())
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (problem,) = problems(manifest, SCHEMA)
    assert said in problem


def test_words_of_the_user_are_no_variables_of_kubernetes():
    made = gke.jobset(jobset(command=["run", "$(HOME)", "$HOME"]))
    container = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["run", "$$(HOME)", "$HOME"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"kind": "v5"}, "unknown kind of TPU 'v5'"),
        ({"topology": "4x4x4"}, "2 numbers"),
        ({"topology": "0x4"}, "2 numbers"),
        ({"topology": "3x3"}, "no whole number of hosts"),
        ({"image": "a b"}, "no name of a container image"),
        ({"namespace": "A"}, "--namespace"),
        ({"service_account": "a@b"}, "--service-account"),
        ({"slices": 0}, "--slices"),
        ({"command": [CONFIG, "--workdir=runs/x"]}, "vanish with them"),
    ],
)
def test_wrong_values_of_gke(changes, said):
    with pytest.raises(UserError, match=re.escape(said)):
        gke.plan(jobset(**changes))


SLURM = ("--nodes=2", "--time=04:00:00", "--partition=gpu", "--gpus-per-node=8", "--setup=module load cuda")


def tools(folder: Path, **codes: int) -> dict[str, str]:
    """sbatch, squeue, scancel, scontrol, srun: each keeps its words, one by one, and ends with a code."""
    path = folder / "bin"
    path.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "srun"):
        says = {"sbatch": "echo '42;cluster'", "squeue": "echo 'RUNNING 1:00 node[1-2]'"}.get(name, "true")
        text = f'#!/bin/sh\nprintf "%s\\n" {name} "$@" -- >> {folder}/calls\n{says}\nexit {codes.get(name, 0)}\n'
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    return os.environ | {"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def calls(folder: Path) -> list[list[str]]:
    text = (folder / "calls").read_text() if (folder / "calls").exists() else ""
    return [call.splitlines() for call in text.split("\n--\n") if call]


def run(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_slurm_job_from_its_submission_to_its_end(tmp_path):
    environment, root = tools(tmp_path), f"--root={tmp_path / 'launches'}"
    run(environment, "slurm", "--name=run1", root, *SLURM, "--yes", "--", CONFIG, "--config.optim.lr=0.1")
    folder = tmp_path / "launches" / "run1"
    assert calls(tmp_path) == [["sbatch", "--parsable", str(folder / "job.sbatch")]]
    script = (folder / "job.sbatch").read_text()
    for line in (
        "job-name=run1",
        "nodes=2",
        "ntasks-per-node=1",
        "time=04:00:00",
        "partition=gpu",
        "gpus-per-node=8",
    ):
        assert f"\n#SBATCH --{line}\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "RUNNING 1:00 node[1-2]" in run(environment, "status", "run1", root)
    run(environment, "stop", "run1", root)
    assert calls(tmp_path)[-1] == ["scancel", "42"]


@pytest.mark.parametrize(
    "code, stopped, again", [(75, False, True), (75, True, False), (0, False, False), (2, False, False)]
)
def test_a_slurm_job_queues_itself_again_only_after_a_save(tmp_path, code, stopped, again):
    environment, root = tools(tmp_path, srun=code), f"--root={tmp_path / 'launches'}"
    run(environment, "slurm", "--name=run1", root, "--yes", "--", "program", "a b", "$(touch pwned)")
    if stopped:
        run(environment, "stop", "run1", root)
    script = tmp_path / "launches" / "run1" / "job.sbatch"
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment | {"SLURM_JOB_ID": "42"})
    assert done.returncode == code
    assert ["srun", "--label", "--kill-on-bad-exit=0", "program", "a b", "$(touch pwned)"] in calls(tmp_path)
    assert (["scontrol", "requeue", "42"] in calls(tmp_path)) == again
    assert not list(tmp_path.rglob("pwned"))


def test_a_folder_with_blanks_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no blanks"):
        main(["slurm", "--name=run1", f"--root={tmp_path}/a b", "--dry-run", "--", CONFIG])


@pytest.mark.parametrize(
    "flag",
    ["--nodes=0", "--time=soon", "--partition=a b", "--account=x;y", "--gpus-per-node=$(id)", "--setup=a\nb"],
)
def test_wrong_values_of_slurm(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=flag.split("=")[0]):
        main(["slurm", "--name=run1", f"--root={tmp_path}", flag, "--dry-run", "--", CONFIG])

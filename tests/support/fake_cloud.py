"""A Google Cloud for tests: a `gcloud` that keeps its resources in a folder, fails on request, records every call.

The workers of a TPU are folders, `ssh` runs its command there with bash, and what it starts dies with the machine. The
texts, exit codes and states are the real ones: read from the sources of gcloud 528 (surface/compute/tpus,
command_lib/util/ssh) and from errors that users of Cloud TPU published. `scenario.json` in the folder:

    hosts     workers of a slice
    states    for each creation: the states that one `describe` after the other sees; the last one stays
    failure   what a FAILED resource says
    errors    {verb: [name in ERRORS or '' for none, ...]}: of its first, second, ... call
    train     for each start of a worker: {'lines', 'seconds', 'code'}; it ends with 75 on SIGTERM
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOOLS = "bash cat env git gzip mkdir mv nohup ps rm setsid sleep tail tar timeout touch".split()
GONE = ("SUSPENDING", "SUSPENDED", "FAILED")
DONE_BUT = "done, but the answer is lost"
ERRORS = {
    "quota": (
        1,
        "{verb}) RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been "
        "exceeded. Limit: 0 in zone us-central1-a.",
    ),
    "capacity": (
        1,
        '{verb}) {{\n  "code": 8,\n  "message": "There is no more capacity in the zone \\"us-central1-a\\"; you can '
        'try in another zone where Cloud TPU Nodes are offered [EID: 0x1]"\n}}',
    ),
    "unavailable": (1, "{verb}) UNAVAILABLE: The service is currently unavailable."),
    DONE_BUT: (1, "{verb}) UNAVAILABLE: The service is currently unavailable."),
    "permission": (
        1,
        "{verb}) PERMISSION_DENIED: Permission denied on 'locations/us-central1-a' (or it may not exist). "
        "This command is authenticated as someone@example.com.",
    ),
    "argument": (
        1,
        "{verb}) INVALID_ARGUMENT: Cloud TPU received a bad request. The requested accelerator configuration for "
        'accelerator type, "v5litepod-16", could not be found in the zonal accelerator configurations.',
    ),
    "ssh": (255, "{verb}) [/usr/bin/ssh] exited with return code [255]."),
    "pip": (1, None),  # the remote command itself fails
}


class Failed(Exception):
    """gcloud ends: exit code and the text after 'ERROR: (gcloud.'."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Cloud:
    """The folder, held by a lock while one call changes it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.scenario: dict[str, Any] = json.loads((folder / "scenario.json").read_text())

    @contextlib.contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        with open(self.folder / "state.json", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            state = json.loads(file.read() or '{"queued": {}, "created": 0, "calls": {}, "starts": {}}')
            yield state
            file.seek(0)
            file.truncate()
            file.write(json.dumps(state))

    def count(self, kind: str, name: str) -> int:
        """How often it was counted before."""
        with self.state() as state:
            before = state[kind].get(name, 0)
            state[kind][name] = before + 1
        return before

    def error(self, verb: str, name: str) -> str:
        """Raises the error that is due for this call; returns the one that is due after it."""
        due = self.scenario.get("errors", {}).get(name, [])
        number = self.count("calls", name)
        wanted = due[number] if number < len(due) else ""
        if wanted and wanted != DONE_BUT:
            self.fail(verb, wanted)
        return wanted

    def fail(self, verb: str, name: str) -> None:
        code, text = ERRORS[name]
        raise Failed(code, text and text.format(verb=verb))

    def home(self, node: str, worker: int) -> Path:
        return self.folder / "machines" / f"{node}-{worker}"

    def homes(self, node: str) -> list[Path]:
        return [self.home(node, worker) for worker in range(self.scenario.get("hosts", 1))]

    def end_machines(self, name: str) -> None:
        """What runs on the machines ends with them."""
        for home in (self.folder / "machines").glob(f"{name}-*"):
            for file in [*home.glob("*.pid"), *home.glob("*/*.pid"), *home.glob("sessions/*")]:
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.killpg(int(file.read_text()), signal.SIGKILL)
            shutil.rmtree(home, ignore_errors=True)


def value(argv: list[str], name: str) -> str:
    return next((word.partition("=")[2] for word in argv if word.startswith(f"--{name}=")), "")


def queued_resources(cloud: Cloud, action: str, name: str, argv: list[str]) -> int:
    verb = f"compute.tpus.queued-resources.{action}"
    after = cloud.error(verb, action)
    with cloud.state() as state:
        there = state["queued"].get(name)
        if action == "create":
            if there:
                raise Failed(1, f"{verb}) ALREADY_EXISTS: Resource 'queuedResources/{name}' already exists")
            lives = cloud.scenario.get("states", [["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
            life = lives[min(state["created"], len(lives) - 1)]
            count = value(argv, "node-count")
            nodes = [f"{name}-{i}" for i in range(int(count))] if count else [value(argv, "node-id")]
            state["queued"][name] = {"life": life, "nodes": nodes}
            state["created"] += 1
        elif not there:
            raise Failed(1, f"{verb}) NOT_FOUND: Resource 'queuedResources/{name}' was not found")
        elif action == "delete":
            if "--force" not in argv:
                raise Failed(1, f"{verb}) FAILED_PRECONDITION: the queued resource has nodes")
            cloud.end_machines(name)
            del state["queued"][name]
        else:
            now = there["life"][0]
            if len(there["life"]) > 1:
                there["life"] = there["life"][1:]
            if now in GONE:
                cloud.end_machines(name)
            for node in there["nodes"] if now == "ACTIVE" else ():
                for home in cloud.homes(node):
                    (home / "sessions").mkdir(parents=True, exist_ok=True)
            data = {"state": now}
            if now == "FAILED":
                data["failedData"] = {"error": {"code": 8, "message": cloud.scenario.get("failure", "")}}
            print(json.dumps({"name": f"projects/p/locations/z/queuedResources/{name}", "state": data}))
    if after == DONE_BUT:
        cloud.fail(verb, after)
    return 0


def chosen(cloud: Cloud, node: str, argv: list[str], verb: str) -> list[Path]:
    worker = value(argv, "worker")
    homes = cloud.homes(node)
    homes = homes if worker == "all" else [homes[int(worker)]]
    if not all(home.is_dir() for home in homes):
        raise Failed(1, f"{verb}) NOT_FOUND: Resource 'nodes/{node}' was not found")
    return homes


def scp(cloud: Cloud, source: str, target: str, argv: list[str]) -> int:
    verb = "compute.tpus.tpu-vm.scp"
    cloud.error(verb, "scp")
    node, _, path = target.partition(":")
    for home in chosen(cloud, node, argv, verb):
        shutil.copy(source, home / path)
    return 0


def forward(source: Any, target: Any) -> None:
    """Of a remote process to here: when this one is killed, nothing of it holds our caller's pipes."""
    while chunk := source.read1():
        target.write(chunk)
        target.flush()


def ssh(cloud: Cloud, node: str, argv: list[str]) -> int:
    verb = "compute.tpus.tpu-vm.ssh"
    cloud.error(verb, "ssh")
    say(f"Attempting to SSH into 1 nodes with a total of {cloud.scenario.get('hosts', 1)} workers.")
    codes = []
    for home in chosen(cloud, node, argv, verb):
        # As gcloud does it: the command is split at blanks, and ssh puts it together again.
        text = " ".join(value(argv, "command").split(" "))
        environment = os.environ | {"HOME": str(home), "FAKE_WORKER": home.name}
        process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pipes = ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
        threads = [threading.Thread(target=forward, args=(source, target.buffer)) for source, target in pipes]
        for thread in threads:
            thread.start()
        session = home / "sessions" / str(process.pid)
        session.write_text(str(process.pid))
        code = process.wait()
        for thread in threads:
            thread.join()
        session.unlink(missing_ok=True)
        if code < 0 or not home.is_dir():
            say(f"Connection to {node} closed by remote host.")
            cloud.fail(verb, "ssh")
        codes.append(code)
    return next((code for code in codes if code), 0)


def storage(cloud: Cloud, words: list[str]) -> int:
    if words[:2] == ["buckets", "describe"]:
        cloud.error("storage.buckets.describe", "bucket")
        if words[2].removeprefix("gs://") not in cloud.scenario.get("buckets", ["bucket"]):
            raise Failed(1, f"storage.buckets.describe) {words[2]} not found: 404.")
        print("US-CENTRAL1")
        return 0
    path = cloud.folder / "buckets" / words[1].removeprefix("gs://")
    if words[0] == "cat" and path.is_file():
        print(path.read_text(), end="")
        return 0
    raise Failed(1, "storage.cat) The following URLs matched no objects or files:")


def gcloud(cloud: Cloud, argv: list[str]) -> int:
    words = [word for word in argv if not word.startswith("--")]
    if words[:3] == ["compute", "tpus", "queued-resources"]:
        return queued_resources(cloud, words[3], words[4], argv)
    if words[:4] == ["compute", "tpus", "tpu-vm", "scp"]:
        return scp(cloud, words[4], words[5], argv)
    if words[:4] == ["compute", "tpus", "tpu-vm", "ssh"]:
        return ssh(cloud, words[4], argv)
    if words[0] == "storage":
        return storage(cloud, words[1:])
    say(f"ERROR: (gcloud) Invalid choice: '{' '.join(words[:3])}'.")
    return 2


def train(cloud: Cloud) -> int:
    """Stands for the interpreter of a worker's environment: the run."""
    worker = os.environ["FAKE_WORKER"]
    scripts = cloud.scenario.get("train", [{}])
    script = scripts[min(cloud.count("starts", worker), len(scripts) - 1)]
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    print(f"{worker}: {' '.join(sys.argv[3:])}", flush=True)
    for line in range(script.get("lines", 1)):
        print(f"line {line}", flush=True)
    until = time.monotonic() + script.get("seconds", 0.0)
    while time.monotonic() < until and not ended:
        time.sleep(0.02)
    print("saved" if ended else "end", flush=True)
    return 75 if ended else script.get("code", 0)


def tool(cloud: Cloud, name: str, argv: list[str]) -> int:
    """python3 and uv of a worker: they install nothing, and say what they were asked for."""
    with open(cloud.folder / "installs.txt", "a") as file:
        file.write(f"{os.environ['FAKE_WORKER']}: {name} {' '.join(argv)}\n")
    if name == "python3":
        uv = Path(os.environ["HOME"], ".local", "bin", "uv")
        uv.parent.mkdir(parents=True, exist_ok=True)
        if not uv.exists():
            uv.symlink_to(cloud.folder / "bin" / "uv")
    elif argv[0] == "venv":
        python = Path(argv[-1], "bin", "python")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.symlink_to(cloud.folder / "bin" / "train")
    return 0


def make(folder: Path, **scenario: Any) -> dict[str, str]:
    """A cloud in a new folder; the environment in which nothing but its tools is on the PATH."""
    path = folder / "bin"
    path.mkdir(parents=True)
    (folder / "scenario.json").write_text(json.dumps(scenario))
    (folder / "calls.jsonl").touch()
    for name in ("gcloud", "python3", "uv", "train"):
        script = path / name
        script.write_text(
            f"#!{sys.executable} -IS\n" + RUN.format(module=str(Path(__file__)), name=name, folder=str(folder))
        )
        script.chmod(0o755)
    for name in TOOLS:
        if (real := shutil.which(name)) is not None:
            (path / name).symlink_to(real)
    return {"PATH": str(path), "HOME": str(folder)}


RUN = """import runpy, sys
sys.argv = [{module!r}, {folder!r}, {name!r}, *sys.argv[1:]]
runpy.run_path({module!r}, run_name="__main__")
"""


def main(folder: str, name: str, argv: list[str]) -> int:
    cloud = Cloud(Path(folder))
    if name == "train":
        return train(cloud)
    if name != "gcloud":
        return tool(cloud, name, argv)
    with open(cloud.folder / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(argv) + "\n")
    try:
        return gcloud(cloud, argv)
    except Failed as failed:
        code, text = failed.args
        say(f"ERROR: (gcloud.{text}" if text else "error: subprocess-exited-with-error")
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))

"""`cnn doctor`: what this machine and this installation offer, and the line that mends what is missing.

JAX is only imported in a child process with a time limit, so a broken driver cannot hang the doctor.
"""

import importlib.metadata as metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import cnn
from cnn import cli, flags, paths
from cnn.native import build

GIB = 2**30
DEVICES_TIMEOUT = 90  # seconds; a TPU takes some
DEVICES_PROGRAM = """
import json, jax
print(json.dumps({
    "backend": jax.default_backend(),
    "processes": jax.process_count(),
    "devices": [{"id": d.id, "kind": d.device_kind, "platform": d.platform} for d in jax.devices()],
}))
"""
OK, MISSING, BROKEN = "ok", "missing", "broken"  # only `broken` makes the exit code 1


class Finding(NamedTuple):
    """One line of the report; `fix` is the command that mends it, '' when nothing is wrong."""

    name: str
    status: str
    about: str
    fix: str = ""


def install_line(extra: str = "") -> str:
    """The pip command that installs cnn with an extra, for a checkout or for a wheel."""
    brackets = f"[{extra}]" if extra else ""
    return f"pip install -e '.{brackets}'" if paths.checkout() else f"pip install 'cnn{brackets}'"


def python() -> Finding:
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", OK, system)


def requirements() -> dict[str, list[Any]]:
    """What the package itself needs, by extra ('' is the core), as `packaging` requirements.

    Raises:
      importlib.metadata.PackageNotFoundError: this is no checkout and cnn is not installed.
    """
    from packaging.requirements import Requirement

    root = paths.checkout()
    if root is not None:  # the checkout knows better than what was installed from it some time ago
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        parsed = {extra: [Requirement(line) for line in lines] for extra, lines in groups.items()}
    else:
        parsed = {"": []}
        for requirement in map(Requirement, metadata.requires("cnn") or []):
            extra = re.search(r"extra == ['\"]([\w-]+)", str(requirement.marker))
            parsed.setdefault(extra[1] if extra else "", []).append(requirement)
    return {
        extra: [requirement for requirement in group if requirement.name != "cnn"]
        for extra, group in parsed.items()
        if extra != "all"
    }


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def packages() -> tuple[list[Finding], dict[str, str]]:
    """Findings about the core and every extra, and the version of each package that is there."""
    try:
        wanted = requirements()
    except (metadata.PackageNotFoundError, ImportError):
        fix = install_line()
        return [Finding("packages", BROKEN, "cnn itself is not installed in this Python", fix)], {}
    versions, findings = {"cnn": cnn.__version__}, []
    absent = {extra for extra, _, present in accelerators() if not present}
    for extra, group in wanted.items():
        wrong = []
        for requirement in group:
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue  # not for this system
            version = version_of(requirement.name)
            if version is None:
                wrong.append(f"{requirement.name} is not installed")
                continue
            versions[requirement.name] = version
            if not requirement.specifier.contains(version, prereleases=True):
                wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
            wrong += [
                f"{requirement.name}[{inner}] is not installed"
                for inner in requirement.extras
                if not _has_extra(requirement.name, inner)
            ]
        name = f"extra [{extra}]" if extra else "packages"
        if not wrong:
            findings.append(Finding(name, OK, f"{len(group)} packages"))
        elif extra in absent:
            findings.append(Finding(name, OK, "not needed: this machine has no such device"))
        else:
            status = MISSING if extra else BROKEN
            findings.append(Finding(name, status, "; ".join(wrong), install_line(extra)))
    return findings, dict(sorted(versions.items()))


def _has_extra(name: str, extra: str) -> bool:
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires(name) or []]
    return all(
        version_of(requirement.name) is not None
        for requirement in needed
        if requirement.marker
        and requirement.marker.evaluate({"extra": extra})
        and not requirement.marker.evaluate({"extra": ""})
    )


def devices(timeout: float = DEVICES_TIMEOUT) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about JAX's devices, and {'backend', 'processes', 'devices'} ({} when it fails)."""
    command = [sys.executable, "-c", DEVICES_PROGRAM]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        about = f"JAX did not start within {timeout:g} s"
        fix = "JAX_PLATFORMS=cpu cnn doctor (tells whether the accelerator's driver is at fault)"
        return [Finding("devices", BROKEN, about, fix)], {}
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        return [Finding("devices", BROKEN, f"JAX does not start: {lines[-1]}", install_line())], {}
    found = json.loads(child.stdout.strip().splitlines()[-1])
    kinds = sorted({device["kind"] for device in found["devices"]})
    about = f"{len(found['devices'])} x {', '.join(kinds)} (backend {found['backend']})"
    findings = [Finding("devices", OK, about)]
    for extra, backend, present in accelerators():
        if present and found["backend"] != backend:
            about = f"this machine has a {extra.upper()} that JAX does not use"
            findings.append(Finding(extra, MISSING, about, install_line(extra)))
    return findings, found


def accelerators() -> list[tuple[str, str, bool]]:
    """(extra, JAX's backend, whether the kernel shows such a device)."""
    return [
        ("gpu", "gpu", Path("/dev/nvidia0").exists()),
        ("tpu", "tpu", Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()),
    ]


def native() -> Finding:
    """Whether convolutions on the CPU are oneDNN's; the library is tried in a child, for it may crash."""
    name, stock = "cpu convolutions", "XLA's own"
    try:
        library = build.built()
    except build.NotBuilt as reason:
        status = MISSING if reason.fix else OK
        return Finding(name, status, f"{stock}: {reason}", reason.fix)
    command = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).CnnConv", library]
    if subprocess.run(command, capture_output=True).returncode != 0:
        fix = f"rm {library} && python -m cnn.native.build"
        return Finding(name, MISSING, f"{stock}: {library} does not load", fix)
    if os.environ.get("CNN_NATIVE") == "0":
        return Finding(name, OK, f"{stock}: CNN_NATIVE=0 turns oneDNN off")
    return Finding(name, OK, f"oneDNN {build.onednn().version}")


def cache() -> tuple[Finding, dict[str, Any]]:
    """The persistent compile cache: where, how much, and whether it can be written."""
    folder = paths.compile_cache_dir()
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    facts = {"path": str(folder), "files": len(sizes), "mib": round(sum(sizes) / 2**20, 1)}
    about = f"{folder}: {facts['files']} files, {facts['mib']} MiB"
    if not _writable(folder):
        fix = "CNN_CACHE_DIR=FOLDER_YOU_CAN_WRITE cnn ..."
        return Finding("compile cache", MISSING, f"{about}; it cannot be written", fix), facts
    return Finding("compile cache", OK, about), facts


def _writable(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # it will be made: what counts is the first folder that is there
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def data() -> tuple[Finding, dict[str, Any]]:
    """The data folder and the data sets that are prepared in it (TFDS's `name/.../version` layout)."""
    folder = paths.data_dir()
    prepared = sorted(
        str(file.parent.relative_to(folder)) for file in folder.glob("*/**/dataset_info.json")
    )
    facts = {"path": str(folder), "prepared": prepared}
    listed = ", ".join(prepared) or "nothing prepared yet"
    if not _writable(folder):
        fix = "CNN_DATA_DIR=FOLDER_YOU_CAN_WRITE cnn ..."
        return Finding("data", MISSING, f"{folder} cannot be written; {listed}", fix), facts
    return Finding("data", OK, f"{folder}: {listed}"), facts


def machine() -> tuple[list[Finding], dict[str, Any]]:
    """Cores that this process may use, memory and free disk, in GiB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(Path.cwd()).free
    facts = {
        "cores": cores,
        "memory_gib": round(pages / GIB, 1),
        "disk_free_gib": round(free / GIB, 1),
    }
    about = f"{cores} cores, {facts['memory_gib']} GiB memory, {facts['disk_free_gib']} GiB free here"
    if free < GIB:
        fix = "make room: checkpoints and the compile cache need some hundred MiB"
        return [Finding("machine", MISSING, about, fix)], facts
    return [Finding("machine", OK, about)], facts


def report() -> dict[str, Any]:
    """Everything, as a JSON-able dict; `findings` has the lines that are printed."""
    package_findings, versions = packages()
    device_findings, found = devices()
    cache_finding, cache_facts = cache()
    data_finding, data_facts = data()
    machine_findings, machine_facts = machine()
    findings = [python(), *package_findings, *device_findings, *machine_findings]
    findings += [native(), cache_finding, data_finding]
    return {
        "ok": all(finding.status != BROKEN for finding in findings),
        "python": platform.python_version(),
        "versions": versions,
        "jax": found,
        "machine": machine_facts,
        "compile_cache": cache_facts,
        "data": data_facts,
        "findings": [finding._asdict() for finding in findings],
    }


def main(argv: list[str]) -> int | None:
    """`cnn doctor [--json]`. Exit code 1 when something essential is broken."""
    parser = flags.Parser("doctor", cli.VERBS["doctor"].about)
    parser.add_argument("--json", action="store_true", help="the whole report, for a bug report")
    options, _ = parser.parse(argv)
    found = report()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"cnn {cnn.__version__}")
        for finding in found["findings"]:
            print(f"  {finding['status']:<8}{finding['name']:<20}{finding['about']}")
            if finding["fix"]:
                print(f"{'':10}fix: {finding['fix']}")
        known = [f"{name} {version}" for name, version in found["versions"].items()]
        print(f"  versions: {', '.join(known)}")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(cli.run("doctor"))

"""The targets of a launch, each by the functions that it is made of."""

import dataclasses
from collections.abc import Callable

from cnn.flags import Parser
from experiments.launch import gke, local, pod, slurm, sweep, tpu
from experiments.launch.plan import Plan
from experiments.launch.record import Launch


def _nothing(launch: Launch) -> None:
    """A target with nothing to pin."""


@dataclasses.dataclass(frozen=True)
class Provider:
    """One target.

    Attributes:
      about: one line.
      asks: whether a person must say yes first, because it costs or others wait for it.
      flags: adds its flags to a parser.
      workdir: where the run's folder is unless the command says.
      prepare: pins in the launch what must not change when it is resumed.
      plan: everything that will be run; does nothing.
      run: does it, and returns the exit code.
      status: what the target itself says, for another shell.
      logs: prints what the workers said: the last lines, and what comes where it is to follow.
      stop: ends what runs where no controller is left to do so.
    """

    about: str
    asks: bool
    flags: Callable[[Parser], None]
    workdir: Callable[[Launch], str]
    plan: Callable[[Launch], Plan]
    run: Callable[[Launch], int]
    status: Callable[[Launch], str]
    logs: Callable[[Launch, int, bool], int]
    stop: Callable[[Launch], None]
    prepare: Callable[[Launch], None] = _nothing


PROVIDERS = {
    "local": Provider(
        "processes with simulated devices on this machine",
        False,
        local.flags,
        local.workdir,
        local.plan,
        local.run,
        local.status,
        local.logs,
        local.stop,
    ),
    "tpu": Provider(
        "Cloud TPU VMs, created, watched, re-created and deleted",
        True,
        tpu.flags,
        tpu.workdir,
        tpu.plan,
        pod.run,
        tpu.status,
        tpu.logs,
        pod.stop,
        tpu.prepare,
    ),
    "slurm": Provider(
        "a job of a Slurm cluster",
        True,
        slurm.flags,
        slurm.workdir,
        slurm.plan,
        slurm.run,
        slurm.status,
        slurm.logs,
        slurm.stop,
    ),
    "gke": Provider(
        "a JobSet for TPU node pools of Kubernetes",
        True,
        gke.flags,
        gke.workdir,
        gke.plan,
        gke.run,
        gke.status,
        gke.logs,
        gke.stop,
    ),
    "sweep": Provider(
        "many runs: a grid or random search on one of local, slurm, tpu",
        True,
        sweep.flags,
        sweep.workdir,
        sweep.plan,
        sweep.run,
        sweep.status,
        sweep.logs,
        sweep.stop,
    ),
}

"""What makes processes of the tests quick; nothing here imports JAX, whose flags must be set before.

XLA's optimizations are not what is tested here, and LLVM's take longer than the tests; the old emitters and whole
modules compile two and a half times as fast.
"""

import os

COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def flags(devices: int) -> str:
    """The value of XLA_FLAGS for so many simulated devices."""
    return f"{COMPILE_FAST} --xla_force_host_platform_device_count={devices}"


def training() -> None:
    """For a child process that trains, before its backend is made: compiles fast, draws nothing, times no bare step.

    A picture takes longer than the run, and so does that timing.
    """
    import cnn.result
    import cnn.timing

    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = given if COMPILE_FAST in given else f"{given} {COMPILE_FAST}"
    cnn.result._curves = lambda _: []
    cnn.timing.bare_step_seconds = lambda *_, **__: [1.0]


if __name__ == "__main__":  # `python -m tests.support.quick --config=...`: such a `cnn train`
    import sys

    from cnn import cli

    training()
    sys.exit(cli.run("train", sys.argv[1:]))

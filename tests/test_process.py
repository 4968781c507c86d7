"""Freed memory stays with the process: XLA's temporary arrays come without page faults after some steps."""

import subprocess
import sys

import pytest

from cnn import process

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from cnn.process import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = jax.jit(lambda x: jnp.outer(x, x) @ x)
x = jnp.arange(4096.0)
faults = []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[30:])[15])  # until then the heap finds its size
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not process.has_glibc(), reason="another C library than glibc")
def test_a_step_takes_no_fresh_pages():
    plain, kept = faults("plain"), faults("keep")
    assert kept < 100 < 10_000 < plain  # 64 MiB in pages of 4 KiB: 16,384

"""Training needs neither a network nor TensorFlow: a process without both trains the main job's smoke form."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import importlib.machinery, socket, sys

BLOCKED = ("tensorflow", "tensorboard", "torch", "keras")

class PathFinder(importlib.machinery.PathFinder):  # as if they were not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = PathFinder

class NoSocket(socket.socket):
    def __init__(self, family=socket.AF_INET, *args, **kwargs):
        if family in (socket.AF_INET, socket.AF_INET6):
            raise OSError("the network is blocked by this test")
        super().__init__(family, *args, **kwargs)

def no_lookup(*args, **kwargs):
    raise OSError("name resolution is blocked by this test")

socket.socket, socket.getaddrinfo = NoSocket, no_lookup
from cnn import cli
code = cli.main(sys.argv[1:])
assert not sys.modules.keys() & set(BLOCKED)
sys.exit(code)
"""


@pytest.mark.parametrize("fake", [True, False], ids=["fake", "real"])
def test_digits_train_without_network_and_tensorflow(fake, tmp_path, root, data_dir):
    argv = ["train", "--config=configs/classification/digits_resnet.py:smoke", f"--workdir={tmp_path}"]
    argv += ["--config.model.stage_sizes=(1,)", f"--config.input.fake={fake}"]
    argv += [] if fake else [f"--config.input.data_dir={data_dir}", "--config.input.batch_size=32"]
    one_device = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], cwd=root, env=os.environ | one_device, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["test"]["examples"] == (40 if fake else 899)

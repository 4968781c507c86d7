"""The TPU table: which networks stand for all, what is done again, what happens to a batch that does not fit."""

import importlib.util
import sys

import pytest

from cnn.models import MODELS
from experiments.benchmarks import tpu


def test_every_family_of_pictures_has_one_network():
    files = [MODELS[name].target.partition(":")[0] for name in tpu.representatives()]
    assert len(files) == len(set(files))
    assert {"cnn.models.resnet", "cnn.models.convnext", "cnn.models.regnet"} <= set(files)
    assert not {"cnn.models.mnist1d", "cnn.models.small_cnn", "cnn.models.mlp"} & set(files)
    assert tpu.LIKE in tpu.representatives()


def test_half_the_batch_is_tried_until_it_fits(monkeypatch):
    tried = []

    def compiler(name, topology, batch, space):
        tried.append(batch)
        return {"peak_gib": "1.00"} if batch <= 16 else {"error": f"{tpu.libtpu.NO_MEMORY}: Ran out of memory"}

    monkeypatch.setattr(tpu, "in_a_process", compiler)
    row = tpu.row_of("resnet50", "v5e:2x2", 64, "code")
    assert tried == [64, 32, 16]
    assert (row["batch"], row["asked"], row["peak_gib"], row["error"]) == (16, 64, "1.00", "")


def test_rows_of_the_same_code_are_not_made_again(monkeypatch, tmp_path, capsys):
    made = []

    def compiler(name, topology, batch, space):
        made.append(name)
        return {"peak_gib": "1.00"} if name == "resnet18" else {"error": "it fell over"}

    def run(*models, code="a"):
        made.clear()
        monkeypatch.setattr(sys, "argv", ["tpu.py", *models, f"--out={tmp_path / 'tpu.csv'}"])
        monkeypatch.setattr(tpu, "code_version", lambda: code)
        tpu.main()
        return made

    monkeypatch.setattr(tpu, "in_a_process", compiler)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    assert run("resnet18") == ["resnet18"]
    assert run("resnet18") == []
    assert "| resnet18 | 224x224x3 | 64 |" in capsys.readouterr().out
    assert run("resnet18", code="b") == ["resnet18"]
    with pytest.raises(SystemExit, match="did not compile: resnet34"):
        run("resnet18", "resnet34")
    with pytest.raises(SystemExit, match="resnet50"):
        run("resnet5")


def test_without_libtpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tpu.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tpu.main()
    assert "not run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_small_network_compiles(monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.delenv("XLA_FLAGS")  # libtpu's XLA does not know those of the CPU
    row = tpu.in_a_process("resnet18_cifar", "v5e:2x2", 8, 1)
    assert "error" not in row
    assert float(row["peak_gib"]) > 0 and row["collectives"] > 0
    shared = tpu.in_a_process("resnet18_cifar", "v5e:2x2", 8, 4)  # rows of the pictures over four chips
    assert "error" not in shared
    assert float(shared["gflop_per_image"]) < float(row["gflop_per_image"]) / 2

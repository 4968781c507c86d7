"""The command: mistakes, this machine's own devices, and, where libtpu is installed, a TPU that is not here."""

import importlib.util
import json
from pathlib import Path

import pytest

from cnn import cli
from cnn.flags import load_config
from cnn.preflight import libtpu, loader, verb

ROOT = Path(__file__).resolve().parents[2]
DIGITS = f"--config={ROOT}/configs/classification/digits_resnet.py:smoke"
TINY = (DIGITS, "--config.model.stage_sizes=(1,)", "--config.model.width=8")

MISTAKES = (  # flags, part of the one line
    (("--topology=v5:2x2",), "unknown kind of TPU"),
    (("--topology=v5e:4",), "a v5e has 2 axes"),
    (("--topology=v5e:2x2,v4:2x2x1",), "several need --sweep"),
    (("--topology=v5e:2x2", "--batch=-1"), "--batch is -1"),
    (("--prices=x.csv",), "need --topology or --sweep"),
    (("--topologie=v5e:2x2",), "Did you mean '--topology'"),
    (("--topology=v5e:2x2", "--prices=none.csv"), "none.csv: No such file"),
)


@pytest.mark.parametrize(("argv", "message"), MISTAKES)
def test_mistakes_are_one_line(argv, message, capfd, monkeypatch):
    monkeypatch.setattr(libtpu, "check", lambda: None)
    assert cli.main(["preflight", DIGITS, *argv]) == cli.EXIT_USER_ERROR
    error = capfd.readouterr().err
    assert message in error and error.count("\n") == 1


def test_without_libtpu_it_says_how_to_get_it(capfd, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["preflight", DIGITS, "--topology=v5e:2x2"]) == cli.EXIT_USER_ERROR
    assert "pip install -e '.[preflight]'" in capfd.readouterr().err


@pytest.mark.parametrize(("needs", "code"), [(1e9, 0), (99e9, verb.EXIT_NO)])
def test_the_exit_code_is_the_verdict(needs, code, capfd, monkeypatch):
    found = {"verdict": {"go": code == 0, "reasons": [], "warnings": []}}
    monkeypatch.setattr(libtpu, "check", lambda: None)
    monkeypatch.setattr(verb.check, "on_topology", lambda *args, **options: found)
    assert cli.main(["preflight", DIGITS, "--topology=v5e:2x2", "--quick", "--json"]) == code
    assert json.loads(capfd.readouterr().out) == found


def test_the_loader_is_measured(tmp_path):
    config = load_config(DIGITS.partition("=")[2], {})
    found = loader.measure(config, seconds=0.05)
    assert found.rate > 0 and 0 < found.busy <= found.cores + 1 and not found.missing
    assert found.cores_for(found.rate) == pytest.approx(found.busy)
    config.input.fake, config.input.dataset = False, "folder"
    config.input.data_dir = str(tmp_path / "none")
    assert "none" in loader.measure(config, seconds=0.05).missing


@pytest.mark.slow
def test_this_machine_measured_beside_the_forecast(capfd, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    argv = [*TINY, "--batch=2048", "--config.model.width=32"]
    assert cli.main(["preflight", *argv, "--json"]) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out)
    memory, seconds = found["measured"]["memory"], found["measured"]["seconds"]
    assert found["estimate"] and seconds["measured"] > 0 and seconds["forecast"] > 0
    # Not the error: what glibc takes anew depends on what compiling left behind. The benchmark prints it.
    assert memory is None or memory["forecast"] > 0 < memory["measured"]
    from cnn.preflight import text

    assert "forecast" in "\n".join(text.measured(found))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_that_is_not_here(capfd, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    assert cli.main(["preflight", *TINY, "--topology=v5e:2x2", "--quick", "--json"]) == 0, capfd.readouterr().err
    found = json.loads(capfd.readouterr().out)
    assert found["memory"]["fits"] and found["devices"] == 4 and found["collectives"]
    assert found["step"]["wall"] and found["padding"]["waste"] > 0

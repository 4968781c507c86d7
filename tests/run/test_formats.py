"""Runs of the release before (checkpoints of format 1) load, predict, are scored, and go on as they would have.

tests/data/format1/*.zip are runs of that release, stopped at step 16 of 32, with what it then predicted, scored and
went on to; metas.json is what its checkpoints say about other kinds of runs, with the shapes of their variables.
"""

import json
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict

from cnn import config as configs
from cnn import evaluate, predict, tree
from cnn.build import build, network_spec
from cnn.card import FORMAT, info_from_card, spec_from_card
from cnn.data import open_dataset
from cnn.errors import UserError
from cnn.run import checkpoint, finished
from cnn.run.formats import OPTIONS, upgraded, upgraded_config
from cnn.run.workdir import Workdir
from cnn.tables import option_names, resolve
from cnn.train import train
from tests.conftest import ROOT

STORED = ROOT / "tests" / "data" / "format1"
METAS = json.loads((STORED / "metas.json").read_text())
STOPPED = 16


def common():
    c = configs.default()
    c.seed, c.total_steps, c.log_every_steps, c.mesh.devices = 5, 32, 1, 1
    c.eval.baselines, c.eval.test_split = False, "test"
    c.checkpoint.every_steps = 8
    return c


def digits():
    c = common()
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1, "mixup_alpha": 0.2})
    c.model = ConfigDict({"name": "resnet_small", "stage_sizes": (1,), "width": 8, "dropout": 0.1})
    c.input.dataset, c.input.batch_size = "digits", 32
    c.input.train_transforms = (("pad_crop", {"padding": 1}), ("flip", {}))
    c.input.mean, c.input.std = (0.3,), (0.37,)
    c.optim.ema_decay, c.optim.lr, c.optim.weight_decay = 0.9, 0.3, 1e-4
    c.schedule.warmup_steps = 2
    c.eval.split, c.eval.every_steps, c.eval.batch_size, c.eval.use = "test", 8, 100, "best"
    return c


def labelling():
    c = common()
    c.task = ConfigDict({"name": "sequence_labelling"})
    c.model = ConfigDict({"name": "tcn", "width": 4, "levels": 3, "window": 4, "per_step": True})
    c.input.dataset, c.input.batch_size = "copy_memory_t100", 16
    c.optim.name, c.optim.b2, c.optim.momentum = "rmsprop", 0.99, 0.0
    c.optim.lr, c.optim.clip_norm = 5e-3, 1.0
    c.schedule.name = "constant"
    c.eval.split, c.eval.metric, c.eval.mode = "", "loss", "min"
    return c


def masks():
    c = common()
    c.task = ConfigDict({"name": "segmentation", "loss": "ce+dice"})
    c.model = ConfigDict({"name": "unet", "widths": (4, 8)})
    c.input.dataset, c.input.batch_size = "masks_folder", 4
    c.input.train_transforms = (
        ("channels", {}), ("resize", {"size": 24}), ("random_crop", {"size": 16}),
        ("affine", {"degrees": 30, "scale": 0.2}), ("elastic", {"std": 2}), ("rotate90", {}), ("flip", {}),
        ("color_jitter", {"brightness": 0.3, "contrast": 0.2, "saturation": 0.0}),
    )  # fmt: skip
    c.input.eval_transforms = (("channels", {}), ("resize", {"size": 24}))
    c.input.mean, c.input.std = (0.4,) * 3, (0.3,) * 3
    c.optim.name, c.optim.lr = "adamw", 1e-2
    c.eval.split, c.eval.metric, c.eval.batch_size = "", "dice", 4
    return c


RUNS = {"digits": digits, "labelling": labelling, "masks": masks}


def unpacked(name, folder):
    with zipfile.ZipFile(STORED / f"{name}.zip") as archive:
        archive.extractall(folder)
    return str(folder / "run"), json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_predicts_and_scores_as_it_did(name, tmp_path, data_dir):
    run, expected = unpacked(name, tmp_path)
    predictor = predict.load(run, STOPPED)
    with np.load(tmp_path / "expected.npz") as stored:
        rows = list(predictor.rows([predictor.example(one) for one in stored["inputs"]]))
        for key in (key for key in stored if key.startswith("rows/")):
            found = np.stack([row[key.removeprefix("rows/")] for row in rows])
            np.testing.assert_allclose(found, stored[key], rtol=1e-5, atol=1e-6, err_msg=key)
    where = str(tmp_path / "data") if name == "masks" else str(data_dir)
    found = evaluate.evaluate(run, which=STOPPED, data_dir=where)["metrics"]
    for metric, value in expected["evaluate"].items():
        assert found[metric] == pytest.approx(value, rel=1e-5, abs=1e-6), metric


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_resumes_to_the_end_that_it_would_have_had(name, tmp_path, data_dir, capfd):
    """Augmentation, dropout, mixup, the order of the data, the optimizer and the average go on where they were."""
    run, expected = unpacked(name, tmp_path)
    config = RUNS[name]()
    if name == "masks":
        config.input.data_dir = str(tmp_path / "data")
    assert train(config.lock(), run) == 0
    assert f"resume at step {STOPPED} of 32" in capfd.readouterr().out
    done = finished.read(run)
    losses = {str(row["step"]): row["loss"] for row in done.rows if "loss" in row and row["step"] > STOPPED}
    assert losses.keys() == expected["loss"].keys() and len(losses) > 10
    for step, value in expected["loss"].items():
        assert losses[step] == pytest.approx(value, rel=2e-4), step
    for metric, value in expected["test"].items():
        assert done.summary["test"][metric] == pytest.approx(value, rel=2e-3, abs=2e-3), metric
    assert done.summary["best"] == expected["best"]
    assert checkpoint.read_meta(checkpoint.find(run, 32))["format"] == FORMAT


@pytest.mark.parametrize("name", RUNS)
def test_the_config_of_an_old_run_is_still_held_to(name, tmp_path):
    run, _ = unpacked(name, tmp_path)
    config = RUNS[name]()
    Workdir(run).adopt(config)  # the stored one is in the form of format 1, this rewrites it
    Workdir(run).adopt(config)
    config.optim.lr = 0.7
    with pytest.raises(UserError, match="optim.lr: .* -> 0.7"):
        Workdir(run).adopt(config)


@pytest.mark.parametrize("name", METAS)
def test_old_metadata_describe_the_same_network(name):
    meta, shapes = upgraded(METAS[name]["meta"]), METAS[name]["shapes"]
    assert meta["format"] == FORMAT and meta["step"] == 3
    config = configs.for_this_machine(meta["config"])
    info, spec = info_from_card(meta["card"]), spec_from_card(meta["card"])
    built = build(config, info, spec)
    assert {name: list(x.shape) for name, x in tree.flatten(built.shapes).items()} == shapes
    dataset = open_dataset(config.input)
    assert dataset.info == info and dataset.fingerprint == meta["data"]
    assert network_spec(config, dataset.info, dataset.source("train[:1]")) == spec


def test_the_old_order_of_transforms_was_one_for_all():
    steps = METAS["volumes"]["meta"]["config"]["input"]["train_transforms"]
    assert list(steps)[0] == "noise"
    found = upgraded(METAS["volumes"]["meta"])["config"]["input"]["train_transforms"]
    wanted = ["volume_spacing", "volume_intensity", "volume_patch", "volume_gamma", "noise"]
    assert [name for name, _ in found] == wanted and dict(found) == steps


@pytest.mark.parametrize("name", METAS)
def test_upgrading_twice_is_upgrading_once(name):
    meta = upgraded(METAS[name]["meta"])
    assert upgraded(meta) == meta and upgraded_config(meta["config"]) == meta["config"]
    whole = json.loads(configs.to_json(configs.default()))
    assert not whole.keys() - meta["config"].keys() and not whole["eval"].keys() - meta["config"]["eval"].keys()


def test_renamed_options_are_those_that_models_take():
    from cnn.models import MODELS

    for model, renamed in OPTIONS.items():
        assert set(renamed.values()) <= set(option_names(resolve("model", MODELS, model))), model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": FORMAT + 1}, "this version of cnn reads up to"),
        ({"card": {"input": "graph"}}, "its input 'graph' is unknown"),
        ({"card": {"target": "boxes"}}, "its target 'boxes' is unknown"),
        ({"card": {"eval_transforms": {"bend": {}}}}, "its transform 'bend'"),
    ],
)
def test_what_this_version_does_not_have_is_refused_in_one_line(change, said):
    meta = dict(METAS["nuclei"]["meta"])
    meta |= {key: {**meta[key], **value} if isinstance(value, dict) else value for key, value in change.items()}
    with pytest.raises(UserError, match=said) as caught:
        upgraded(meta)
    assert "\n" not in str(caught.value)



"""Every config in configs/: its full form makes a plan without data; its smoke form trains end to end.

Of the smoke forms of one task and family of networks `make test` trains one; the steps of the others are traced.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn import cli, flags
from cnn.plan import make_plan

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(ROOT.glob("configs/**/*.py"))
PATHS = [str(file.relative_to(ROOT)) for file in FILES]
ALIKE = {  # config: the one of the same task and family that `make test` trains
    "classification/cifar10_resnet18": "classification/digits_resnet",
    "classification/cifar10_wrn": "classification/digits_resnet",
    "classification/fashion_mnist_resnet": "classification/digits_resnet",
    "classification/folder_resnet": "classification/digits_resnet",  # its folder: test_your_own_folder_of_images
    "classification/imagenet_resnet50": "classification/digits_resnet",
    "classification/imagenet_convnext_tiny": "classification/digits_resnet",
    "classification/imagenet_efficientnet_b0": "classification/folder_efficientnet_lite0",
    "medical/colin27_unet3d": "medical/nuclei3d_unet3d",
    "medical/msd_unet3d": "medical/nuclei3d_unet3d",
    "segmentation/nuclei2d_unet": "segmentation/folder_unet",
    "segmentation/scenes_unet": "segmentation/folder_unet",
    "segmentation/pet_deeplabv3": "segmentation/cityscapes_deeplabv3plus",
}
ALSO = [f"configs/{name}.py" for name in ALIKE]
EXHAUSTIVE, DRAWN = pytest.mark.exhaustive, pytest.mark.drawn


def summary_of(workdir: Path) -> dict:
    found = json.loads((workdir / "summary.json").read_text())
    assert {"test", "baselines", "timing", "versions", "config", "steps", "parameters", "figures"} <= found.keys()
    assert found["test"]["examples"] > 0 and np.isfinite(found["test"]["loss"])
    assert {"total_seconds", "compile_seconds", "cache_hits", "cache_misses"} <= found["timing"].keys()
    assert {"cnn", "jax", "flax", "optax"} <= found["versions"].keys()
    assert found["figures"] and all((workdir / figure).is_file() for figure in found["figures"])
    return found


def test_configs_are_found():
    assert "configs/classification/digits_resnet.py" in PATHS and len(PATHS) >= 10
    assert {*ALSO, *(f"configs/{name}.py" for name in ALIKE.values())} <= set(PATHS)
    assert not ALIKE.keys() & ALIKE.values()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=EXHAUSTIVE if path in ALSO else DRAWN if "digits" in path else ())
        for path in PATHS
    ],
)
def test_the_smoke_form_trains(path, tmp_path, capfd):
    argv = [f"--config={ROOT / path}:smoke", f"--workdir={tmp_path}", "--config.mesh.devices=1"]
    assert cli.main(["train", *argv]) == 0, capfd.readouterr().err
    found = summary_of(tmp_path)
    assert found["steps"] == 4 and found["baselines"] == {}
    assert any((tmp_path / "checkpoints").iterdir())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    out, err = capfd.readouterr()
    assert err == "" and "summary, pictures and report.html" in out


def full_form(path):
    c = flags.load_config(str(ROOT / path), {"input.fake": "true", "mesh.devices": "1"})
    if c.input.batch_size > 64:  # of which one is made here, with the real transforms
        c = flags.load_config(
            str(ROOT / path), {"input.fake": "true", "mesh.devices": "1", "input.batch_size": "64"}
        )
    return make_plan(c)


@pytest.mark.parametrize("path", PATHS)
def test_the_full_form_makes_a_plan(path):
    plan = full_form(path)
    assert plan.total >= 1 and plan.built.task.num_outputs >= 1


def keeps_shapes(plan):
    """Traces the step on a real batch: the state goes out as it came in."""
    shapes = jax.eval_shape(plan.train_step(), plan.abstract, plan.batches[0])
    assert jax.tree.map(lambda x: x.shape, shapes[0]) == jax.tree.map(lambda x: x.shape, plan.abstract)
    assert shapes[1]["loss"].shape == ()


@pytest.mark.parametrize("path", ALSO)
def test_the_step_of_the_smoke_form_keeps_shapes(path):
    keeps_shapes(make_plan(flags.load_config(f"{ROOT / path}:smoke", {"mesh.devices": "1"})))


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", PATHS)
def test_the_step_of_the_full_form_keeps_shapes(path):
    keeps_shapes(full_form(path))


def test_your_own_folder_of_images(tmp_path, monkeypatch, capfd):
    from PIL import Image

    monkeypatch.setenv("CNN_CACHE_DIR", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cats", "dogs")):
        for i in range(24):
            path = tmp_path / "images" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 100, (20 + i % 5, 24, 3), dtype=np.uint8)
            pixels[..., number] += 150
            Image.fromarray(pixels).save(path)
    (tmp_path / "images" / "cats" / "broken.jpg").write_bytes(b"not an image")
    argv = [f"--config={ROOT}/configs/classification/folder_resnet.py:smoke", f"--workdir={tmp_path}/run"]
    argv += ["--config.input.fake=false", f"--config.input.data_dir={tmp_path}/images", "--config.mesh.devices=1"]
    assert cli.main(["train", *argv, "--config.eval.baselines=true"]) == 0, capfd.readouterr().err
    assert "left out 1 of 49: 1 not an image (cats/broken.jpg)" in capfd.readouterr().out
    found = summary_of(tmp_path / "run")
    assert found["baselines"]["majority"]["accuracy"] <= 1

    shown = tmp_path / "images" / "dogs" / "3.png"
    assert cli.main(["predict", f"--workdir={tmp_path}/run", str(shown), "--json"]) == 0, capfd.readouterr().err
    row = json.loads(capfd.readouterr().out)
    assert row["path"] == str(shown) and row["class"] in ("cats", "dogs")

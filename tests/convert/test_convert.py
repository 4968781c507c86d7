"""`cnn convert`: from a foreign file to a checkpoint that every verb takes; layer diffs by shape and by output."""

import functools
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn import cli, tree
from cnn.convert import compare, variables
from cnn.convert.pretrained import PRETRAINED
from cnn.errors import UserError
from cnn.models import MODELS, build_model
from cnn.run import checkpoint
from tests.support import torch_files as tf

TABLES = Path(variables.__file__).parent / "tables"


def network(name: str, size: int = 64, **options):
    """(model, abstract variables in network order)."""
    model = build_model(name, {"num_classes": 5} | options)
    return model, variables.abstract_variables(model, lambda: jax.numpy.zeros((1, size, size, 3)))


def torchvision_state(like, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of a ResNet as torchvision would save it, with random weights, in network order."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, leaf in variables.leaves_in_order(like).items():
        parts = name.split("/")[1:]
        if parts[0] == "stem":
            module = parts[1]
        elif parts[0] == "head":
            module = "fc"
        else:
            layer = {"proj": "downsample.0", "proj_bn": "downsample.1"}.get(parts[2], parts[2])
            module = f"layer{parts[0][5:]}.{int(parts[1][5:]) - 1}.{layer}"
        leaf_name = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
        array = rng.normal(size=leaf.shape).astype(np.float32) * (0.05 if leaf.ndim > 1 else 0.1)
        array = 1 + np.abs(array) if parts[-1] in ("var", "scale") else array
        if array.ndim > 1:
            array = np.moveaxis(array, (-1, -2), (0, 1))
        state[f"{module}.{leaf_name.get(parts[-1], parts[-1])}"] = array.copy()
        if parts[-1] == "var":
            state[f"{module}.num_batches_tracked"] = np.array(3)
    return state


@pytest.fixture(scope="module")
def resnet():
    model, like = network("resnet18")
    return model, like, torchvision_state(like)


def test_a_state_dict_becomes_the_network_s_variables(resnet):
    model, like, state = resnet
    found = variables.convert_state("resnet18", "torchvision", state, like)
    assert jax.tree.structure(found) == jax.tree.structure(dict(like))
    kernel = found["params"]["stage2"]["block1"]["proj"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0], state["layer2.0.downsample.0.weight"][:, :, 0, 0].T)
    out = jax.jit(functools.partial(model.apply, train=False))(found, jax.numpy.ones((1, 64, 64, 3)))
    assert np.isfinite(out["logits"]).all()


def test_the_layout_is_found_and_our_own_names_are_one(resnet):
    _, like, state = resnet
    found, layout = variables.convert_detecting("resnet18", "", state, like)
    assert layout == "torchvision"
    own = variables.leaves_in_order(found)
    again, layout = variables.convert_detecting("resnet18", "", own, like)
    assert layout == "cnn"
    short = {name.removeprefix("params/"): array for name, array in own.items()}
    assert variables.convert_detecting("resnet18", "", short, like)[1] == "cnn"
    for name, array in variables.leaves_in_order(again).items():
        np.testing.assert_array_equal(array, own[name])
    assert variables.classes_in("resnet18", "", state, like) == 5
    assert variables.classes_in("resnet18", "", own, like) == 5


def test_network_order_is_that_of_the_calls(resnet):
    names = [name for name in variables.leaves_in_order(resnet[1]) if name.startswith("params/")]
    assert names[0] == "params/stem/conv1/kernel" and names[-1] == "params/head/bias"


WRONG = {
    "another model's file": ("resnet50", {}, "first layer that differs: 'params/stage1/block1/conv1/kernel'"),
    "unknown layout": ("resnet18", {"layout": "keras"}, "unknown layout of resnet18 'keras'.*Valid: cnn, timm"),
    "unknown model": ("resnet81", {}, "unknown model 'resnet81'. Did you mean 'resnet18'"),
    "wrong layout": ("resnet18", {"layout": "cnn"}, "layout 'cnn' of resnet18: this network has no 'params/conv1.w"),
    "a family without a table": ("mlp", {}, "layout 'cnn' of mlp"),
    "whole numbers": ("resnet18", {"change": ("fc.weight", lambda x: x.astype(np.int8))}, "would get int8, but"),
    "too large": ("resnet18", {"change": ("fc.bias", lambda x: x * np.float64(1e300))}, "too large for float32"),
    "a key too many": ("resnet18", {"add": "extra.weight"}, "no rule for 'extra.weight'"),
    "a key too few": ("resnet18", {"remove": "bn1.bias"}, r"nothing for 'params/stem/bn1/bias' \(64,\)"),
    "another head": (
        "resnet18",
        {"change": ("fc.weight", lambda x: x[:3])},
        r"'params/head/kernel' is \(512, 5\) in this network, but 'fc.weight' in the file is \(3, 512\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(resnet, name):
    model_name, changes, said = WRONG[name]
    _, like, state = resnet
    state = dict(state)
    if "change" in changes:
        key, how = changes["change"]
        state[key] = how(state[key])
    if "add" in changes:
        state[changes["add"]] = np.ones(3, np.float32)
    state.pop(changes.get("remove"), None)
    if model_name in MODELS and model_name != "resnet18":
        size = MODELS[model_name].input[0]
        like = variables.abstract_variables(
            build_model(model_name, {"num_classes": 5}),
            lambda: jax.numpy.zeros((1, *((64, 64, 3) if size > 64 else MODELS[model_name].input))),
        )
    with pytest.raises(UserError, match=said) as caught:
        variables.convert_state(model_name, changes.get("layout", ""), state, like)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_name", "layout", "options"),
    [
        ("efficientnet_b0", "torchvision", {}),
        ("efficientnet_b5", "torchvision", {"norm_epsilon": 1e-3}),
        ("efficientnet_b7", "timm", {"norm_epsilon": 1e-5}),
        ("tf_efficientnet_b7", "timm", {}),
        ("efficientnet_lite0", "lukemelas", {"padding": "SAME", "norm_epsilon": 1e-3}),
        ("mobilenetv3_small_100", "torchvision", {"norm_epsilon": 1e-3}),
        ("mobilenetv3_small_100", "timm", {}),
        ("resnet50", "torchvision", {}),
    ],
)
def test_a_layout_says_what_its_authors_built_otherwise(model_name, layout, options):
    assert variables.options_of(model_name, layout) == options
    if model_name in PRETRAINED:
        assert PRETRAINED[model_name].options == options


@pytest.mark.parametrize("file", sorted(TABLES.glob("[a-z]*.py")), ids=lambda file: file.stem)
def test_tables_are_well_formed(file):
    import re

    module = importlib.import_module(f"cnn.convert.tables.{file.stem}")
    found = module.TABLES
    assert getattr(module, "OPTIONS", {}).keys() <= found.keys()
    assert any(entry.target.startswith(f"cnn.models.{file.stem}:") for entry in MODELS.values())
    for rules in found.values():
        for pattern, replacement, *how in rules:
            groups = re.compile(pattern).groups
            used = [int(number) for number in re.findall(r"\{(\d+)", replacement or "")]
            assert all(number <= groups for number in used) or how and "order" in how[0], pattern


# --- the layers' outputs


def their_activations(model, found, x, names) -> dict[str, np.ndarray]:
    """What a PyTorch hook would have written for this network: their names, channels first."""
    ours = compare.activations(model, found, x)
    theirs = {"input": np.moveaxis(x, -1, 1)}
    order = [name for name in ours if name in names.values()]
    back = {mine: their for their, mine in names.items()}
    for name in order:
        output = ours[name]
        theirs[back[name]] = np.moveaxis(output, -1, 1) if output.ndim > 2 else output
    return theirs


@pytest.fixture(scope="module")
def compared(resnet):
    model, like, state = resnet
    found = variables.convert_state("resnet18", "torchvision", state, like)
    names = compare.modules(variables.tables_of("resnet18")["torchvision"], state, variables.leaves_in_order(like))
    x = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype(np.float32)
    return model, found, names, x, their_activations(model, found, x, names)


def test_equal_networks_have_no_first_difference(compared):
    model, found, names, x, theirs = compared
    assert len(theirs) == 1 + len(names) == 42
    assert list(theirs)[1:3] == ["conv1", "bn1"]
    assert compare.first_difference(compare.activations(model, found, x), theirs, names) is None


def test_a_wrong_padding_in_one_layer_names_that_layer(compared, monkeypatch):
    from cnn.layers import conv

    model, found, names, x, theirs = compared
    real = conv.explicit_padding

    def same(padding, window, dilation):
        """TensorFlow's padding wherever there is padding; at stride 1 it is the same."""
        return "SAME" if tuple(window) == (3, 3) else real(padding, window, dilation)

    monkeypatch.setattr(conv, "explicit_padding", same)
    difference = compare.first_difference(compare.activations(model, found, x), theirs, names)
    assert difference.ours == "stage2/block1/conv1" and difference.theirs == "layer2.0.conv1"
    assert difference.largest > 0.01
    assert "first layer whose output differs: 'stage2/block1/conv1' (theirs 'layer2.0.conv1'): by" in str(difference)


@pytest.mark.parametrize(
    ("path", "change", "layer"),
    [
        (("params", "stem", "bn1", "scale"), 1.01, "stem/bn1"),
        (("batch_stats", "stage3", "block2", "bn1", "mean"), 1.5, "stage3/block2/bn1"),
        (("params", "head", "kernel"), 1.001, "head"),
        (("params", "stage1", "block1", "conv2", "kernel"), np.nan, "stage1/block1/conv2"),
    ],
)
def test_one_changed_tensor_names_its_layer(compared, path, change, layer):
    model, found, names, x, theirs = compared
    changed = jax.tree.map(np.array, found)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = node[path[-1]] * np.float32(change)
    assert compare.first_difference(compare.activations(model, changed, x), theirs, names).ours == layer


def test_other_sizes_and_other_names(compared):
    model, found, names, x, theirs = compared
    ours = compare.activations(model, found, x)
    cut = theirs | {"layer1.0.conv1": theirs["layer1.0.conv1"][:, :, 1:]}
    difference = compare.first_difference(ours, cut, names)
    assert difference.largest is None and "(2, 16, 16, 64) here, (2, 15, 16, 64) there" in str(difference)
    with pytest.raises(UserError, match="not one of the 1 activations has the name of a layer"):
        compare.first_difference(ours, {"features": x}, names)


# --- the verb


@pytest.fixture
def here(tmp_path, monkeypatch, resnet):
    """A folder with resnet18.pth, which is the current one."""
    (tmp_path / "resnet18.pth").write_bytes(tf.zip_file(tf.state_dict(resnet[2])))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_converted_file_is_an_ordinary_checkpoint(here, capfd, compared, resnet):
    from PIL import Image

    _, found, _, _, theirs = compared
    np.savez("acts.npz", **theirs)
    Path("names.txt").write_text("# birds\nwren\nrobin\ntit\n\nrook\ncrow\n")
    argv = ["convert", "resnet18.pth", "--model=resnet18", "--classes=names.txt", "--size=64", "--json"]
    assert cli.main([*argv, "--out=mine", "--activations=acts.npz"]) == 0, capfd.readouterr().err
    report = json.loads(capfd.readouterr().out)
    assert report["layout"] == "torchvision" and report["difference"] is None and report["compared"]
    assert report["parameters"] == tree.size(found["params"]) and len(report["dropped"]) == 20
    assert report["classes"] == ["wren", "robin", "tit", "rook", "crow"]
    loaded, meta = checkpoint.load_variables(checkpoint.find("mine"))
    for name, array in tree.flatten(found).items():
        np.testing.assert_array_equal(tree.flatten(loaded)[name], array, err_msg=name)
    assert dict(meta["card"]["eval_transforms"])["resize_short"] == {"size": 73, "method": "bilinear"}

    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    Image.fromarray(picture).save("a.png")
    assert cli.main(["predict", "--workdir=mine", "a.png", "--json"]) == 0, capfd.readouterr().err
    assert json.loads(capfd.readouterr().out)["class"] in report["classes"]

    assert cli.main([*argv[:-1], "--out=mine"]) == 2  # never written over
    assert "'mine' holds checkpoints already" in capfd.readouterr().err


@pytest.mark.slow
def test_a_network_for_pixels_becomes_a_checkpoint_of_segmentation(tmp_path, monkeypatch, capfd):
    from experiments.parity import formula

    stored = Path(__file__).parents[1] / "models" / "parity" / "lraspp_mobilenet_v3_large.npz"
    with np.load(stored, allow_pickle=False) as file:
        layout = json.loads(str(file["layout"]))
    monkeypatch.chdir(tmp_path)
    np.savez("lraspp.npz", **{key: formula.tensor(key, shape) for key, shape in layout["state"]})
    argv = ["convert", "lraspp.npz", "--model=lraspp_mobilenet_v3_large", "--size=64", "--out=mine", "--json"]
    assert cli.main(argv) == 0, capfd.readouterr().err
    report = json.loads(capfd.readouterr().out)
    assert report["layout"] == "torchvision" and len(report["classes"]) == 21 and report["parameters"] == 3_221_538
    _, meta = checkpoint.load_variables(checkpoint.find("mine"))
    assert meta["card"]["task"] == "segmentation" and list(meta["card"]["targets"]) == ["mask"]
    assert dict(meta["card"]["eval_transforms"])["resize_short"]["size"] == 64


def test_the_text_report_the_default_folder_and_the_head_s_size(here, capfd):
    assert cli.main(["convert", "resnet18.pth", "--model=resnet18"]) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "layout torchvision" in out and "5 classes: 0, 1, 2, 3, ..." in out
    assert "channels 3, resize_short 256 bilinear, center_crop 224, mean 0.485" in out
    assert "written: resnet18; try: cnn predict --workdir=resnet18 PHOTO" in out
    assert (here / "resnet18" / "checkpoints" / "0").is_dir()
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("flags", "epsilon"), [([], 1e-3), (["--option=norm_epsilon=1e-4"], 1e-4)])
def test_options_of_the_layout_travel_with_the_weights(here, capfd, monkeypatch, flags, epsilon):
    from cnn.convert.tables import resnet as table

    implied = {"torchvision": {"resnet1?": {"norm_epsilon": 1e-3}}}
    monkeypatch.setattr(table, "OPTIONS", implied, raising=False)
    argv = ["convert", "resnet18.pth", "--model=resnet18", "--out=mine", "--json", *flags]
    assert cli.main(argv) == 0, capfd.readouterr().err
    assert json.loads(capfd.readouterr().out)["options"] == {"norm_epsilon": epsilon}
    _, meta = checkpoint.load_variables(checkpoint.find("mine"))
    assert meta["config"]["model"]["norm_epsilon"] == epsilon


def test_a_difference_in_outputs_ends_with_1_and_writes_nothing(here, capfd, compared):
    theirs = dict(compared[4])
    theirs["layer3.1.conv2"] = theirs["layer3.1.conv2"] + 1
    np.savez("acts.npz", **theirs)
    assert cli.main(["convert", "resnet18.pth", "--model=resnet18", "--activations=acts.npz"]) == 1
    out = capfd.readouterr().out
    assert "first layer whose output differs: 'stage3/block2/conv2'" in out and "nothing written" in out
    assert not (here / "resnet18").exists()


def test_evaluate_and_fine_tune_from_a_converted_file(tmp_path, capfd, monkeypatch):
    """A digits run's weights leave as .npz, come back through `convert`, and score the same."""
    from cnn.evaluate import evaluate
    from cnn.finetune import load_into
    from cnn.plan import make_plan
    from cnn.train import train
    from tests.support.runs import tiny

    config = tiny(total_steps=4, optim__ema_decay=0.0)
    assert train(config, str(tmp_path / "run")) == 0
    trained, _ = checkpoint.load_variables(checkpoint.find(str(tmp_path / "run")))
    np.savez(tmp_path / "w.npz", **{k: np.asarray(v) for k, v in tree.flatten(trained).items()})
    monkeypatch.chdir(tmp_path)
    argv = ["convert", "w.npz", "--model=resnet_small", "--option=width=8", "--option=stage_sizes=(1,)", "--out=back"]
    argv += ["--size=8", "--short=8", "--mean=0.5", "--std=0.25", "--dataset=digits"]
    assert cli.main(argv) == 0, capfd.readouterr().err
    said: list[str] = []
    state = make_plan(config).new_state()
    load_into({"params": state.params, "batch_stats": state.batch_stats}, "back", said.append)
    assert "skipped 0, fresh 0" in said[0]
    assert set(evaluate("back", split="test")["metrics"]) >= {"accuracy", "loss"}


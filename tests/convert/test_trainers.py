"""Checkpoints as trainers write them: records beside the weights, prefixes, averaged weights."""


import numpy as np
import pytest

from cnn.convert.files import read_state, read_weights
from cnn.errors import UserError
from tests.support import torch_files as tf

FORMS = {"zip": tf.zip_file, "legacy": tf.legacy_file}
ONE = tf.view("0", np.arange(6, dtype=np.float32))


def record(module, kind, attributes):
    """What pickle writes for an object of a plain class: made without a call, its attributes set."""
    return tf.Raw(tf.name(module, kind) + b")\x81" + tf.code(attributes) + b"b")


RECORDS = {
    "argparse": record("argparse", "Namespace", {"lr": "0.1", "seed": 3}),
    "pathlib": tf.call("pathlib", "PosixPath", "/", "tmp"),
    "numpy scalar": tf.call("numpy._core.multiarray", "scalar", tf.call("numpy", "dtype", "f8", False, True), "bytes"),
    "older numpy": tf.call("numpy.core.multiarray", "scalar", tf.call("numpy", "dtype", "f8", False, True), "bytes"),
    "lightning": tf.Raw(tf.name("pytorch_lightning.utilities.parsing", "AttributeDict") + b")\x81" + b"(" +
                        tf.code("lr") + tf.code(3) + b"u"),
    "omegaconf": record("omegaconf.dictconfig", "DictConfig", {"_content": {"a": 1}}),
    "a set": tf.Raw(b"\x8f(" + tf.code("a") + tf.code(1) + b"\x90"),
    "a frozen set": tf.Raw(b"(" + tf.code("a") + b"\x91"),
    "a dtype": tf.Raw(tf.name("torch", "float32")),
    "defaultdict": tf.call("collections", "defaultdict", tf.Raw(tf.name("builtins", "list"))),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", RECORDS)
def test_what_trainers_save_beside_the_weights_is_read_as_opaque(read, form, kind):
    state = {"a.weight": tf.view("0", np.arange(6, dtype=np.float32))}
    # The writer does not look for storages in opcodes, so the state dict comes first and alone.
    for other in ({"args": RECORDS[kind]}, {"config": {"deep": [RECORDS[kind]]}}):
        found = read(FORMS[form]({"state_dict": state, **other}))
        np.testing.assert_array_equal(found["a.weight"], np.arange(6))
    with pytest.raises(UserError, match="'a.bias' in its state dict is no tensor but"):
        read(FORMS[form]({"state_dict": state | {"a.bias": RECORDS[kind]}}))


def test_classes_as_keys(read):
    callback = tf.name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    keyed = tf.Raw(b"}" + callback + tf.code(1) + b"s")
    found = read(tf.zip_file({"state_dict": {"w": ONE}, "callbacks": keyed}))
    assert list(found) == ["w"]


@pytest.mark.parametrize(
    ("strays", "prefix"),
    [
        ({"n_averaged": 3}, "module."), ({"criterion.weight": 3}, "model."), ({"a": 1, "b": 2}, "module."),
        ({"n_averaged": 3}, "_orig_mod.module."),
    ],
)  # fmt: skip
def test_prefixes_go_by_majority(tmp_path, strays, prefix):
    arrays = {f"{prefix}layer{i}.weight": np.ones(2, np.float32) * i for i in range(4)}
    arrays |= {name: np.ones(size, np.float32) for name, size in strays.items()}
    (tmp_path / "x.pth").write_bytes(tf.zip_file(tf.state_dict(arrays)))
    found = read_weights(tmp_path / "x.pth")
    assert list(found.arrays) == [f"layer{i}.weight" for i in range(4)]
    assert list(found.aside) == list(strays) and found.prefix == prefix
    (tmp_path / "y.pth").write_bytes(tf.zip_file(tf.state_dict({"model.a": np.ones(2), "head.b": np.ones(2)})))
    assert list(read_state(tmp_path / "y.pth")) == ["model.a", "head.b"]


def test_averaged_or_plain_weights(tmp_path):
    path = tmp_path / "x.pth"
    plain, averaged = ({"w": tf.view(key, np.full(2, value, np.float32))} for key, value in (("0", 1), ("1", 2)))
    path.write_bytes(tf.zip_file({"state_dict": plain, "state_dict_ema": averaged, "epoch": 3}))
    both = ("state_dict_ema", "state_dict")
    for which, value, chosen in (("auto", 2, both[0]), ("ema", 2, both[0]), ("plain", 1, both[1])):
        found = read_weights(path, which)
        assert found.arrays["w"][0] == value and found.chosen == chosen
        assert found.others == tuple({*both} - {chosen})
    path.write_bytes(tf.zip_file({"model": plain}))
    assert read_weights(path).chosen == "model" and read_weights(path, "plain").others == ()
    with pytest.raises(UserError, match="holds no averaged weights"):
        read_weights(path, "ema")
    path.write_bytes(tf.zip_file({"model_ema": averaged}))
    with pytest.raises(UserError, match="averaged weights alone"):
        read_weights(path, "plain")

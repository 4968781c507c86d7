"""Files of trainers and of attackers: records beside the weights, prefixes, averaged weights, budgets."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

from cnn.convert.files import read_state, read_weights
from cnn.errors import UserError
from tests.convert.test_files import FORMS, ONE, entry, npy, safetensors, zipped
from tests.support import torch_files as tf


@pytest.fixture
def read(tmp_path):
    def run(content: bytes) -> dict[str, np.ndarray]:
        (tmp_path / "weights.any").write_bytes(content)
        return read_state(tmp_path / "weights.any")

    return run


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


def doubled(opcodes_per_copy):
    """A short pickle that copies a long memoised list again and again."""
    pairs = b"]q\x01(" + b"".join(b"(" + tf.code(i) + b"Nt" for i in range(3000)) + b"eq\x02\x85q\x030"
    copy = tf.name("collections", "OrderedDict") + b"h\x03R"
    return tf.Raw(pairs + b"](" + copy * opcodes_per_copy + b"e")


BUDGETS = {
    "copies of memoised lists": (tf.zip_file(doubled(2_000)), "copies more than"),
    "operations": (tf.zip_file(tf.Raw(b"](" + b"}" * 2**20 + b"e")), "operations"),
    "10^4000 in npy": (zipped(**{"a.npy": npy("(" + "9" * 4000 + ",)", data=bytes(8))}), "no NumPy array"),
    "10^5000 in npy": (zipped(**{"a.npy": npy("(" + "9" * 5000 + ",)", data=bytes(8))}), "no NumPy array"),
    "2^62 beside 0 in npy": (zipped(**{"a.npy": npy(f"({2**62}, 0)")}), "no NumPy array"),
    "10^4000 in safetensors": (safetensors(entry(shape=[10**4000]), bytes(8)), "no valid shape"),
    "10^4000 twice": (safetensors(entry(shape=[10**4000] * 2), bytes(8)), "no valid shape"),
    "2^62 beside 0 in safetensors": (
        safetensors(entry(shape=[2**62, 0, 2**62], data_offsets=[0, 0]), b""), "no array can have"),
    "2^62 beside 0 in a pickle": (
        tf.zip_file({"w": tf.View(ONE.storage, 0, (2**62, 0, 2**62), (1, 1, 1))}), "no array can have"),
    "strides of 2^63": (tf.zip_file({"w": tf.View(ONE.storage, 0, (1, 1), (2**63 - 1, 1))}), "no array can have"),
    "16 axes of 2^62": (tf.zip_file({"w": tf.View(ONE.storage, 0, (2**62,) * 16, (0,) * 16)}), "does not fit"),
    "a shape of a million axes": (tf.legacy_file({"w": tf.View(ONE.storage, 0, (1,) * 100_000, (1,))}), "100000 axes"),
    "long numbers": (tf.zip_file(tf.Raw(b"\x8b" + struct.pack("<i", 2**20) + b"\xff" * 2**20)), "holds no state dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", BUDGETS)
def test_little_that_asks_for_much_is_refused(read, name):
    content, said = BUDGETS[name]
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert peak < 600 << 20, peak


@pytest.mark.parametrize("start", [b"", b"PK\x03\x04", tf.legacy_file({})[:15], struct.pack("<Q", 2**31) + b"{"])
def test_a_large_file_of_zeros_is_refused_before_it_is_read(tmp_path, start):
    with open(tmp_path / "zeros.pth", "wb") as file:
        file.write(start)
        file.truncate(3 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="is refused"):
            read_state(tmp_path / "zeros.pth")
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    os.symlink("/dev/zero", tmp_path / "endless.pth")
    for name in ("pipe.pth", "endless.pth"):
        with pytest.raises(UserError, match="is not a file"):
            read_state(tmp_path / name)

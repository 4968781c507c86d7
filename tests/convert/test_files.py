"""Readers of foreign files: what they read, and that nothing in a file is ever executed or believed."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest

from cnn.convert.files import read_state
from cnn.errors import UserError
from tests.support import torch_files as tf

FORMS = {"zip": tf.zip_file, "legacy": tf.legacy_file}
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "conv.weight": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bn.running_mean": RANDOM.normal(size=4).astype(np.float32),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "fc.weight": RANDOM.normal(size=(5, 4)).astype(np.float16),
    "fc.bias": RANDOM.normal(size=5),
    "mask": np.array([True, False]),
    "codes": np.arange(-3, 3, dtype=np.int8),
    "empty": np.zeros((0, 3), np.float32),
}


def safetensors(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safe(arrays: dict[str, np.ndarray]) -> bytes:
    codes = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int8": "I8", "bool": "BOOL"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        ends = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": codes[array.dtype.name], "shape": list(array.shape), "data_offsets": ends}
        data += array.tobytes()
    return safetensors(header, data)


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


WHOLE = {
    "zip": tf.zip_file(tf.state_dict(WEIGHTS)),
    "legacy": tf.legacy_file(tf.state_dict(WEIGHTS)),
    "safetensors": safe(WEIGHTS),
    "npz": npz(WEIGHTS),
}


@pytest.fixture
def read(tmp_path):
    def run(content: bytes) -> dict[str, np.ndarray]:
        path = tmp_path / "weights.any"
        path.write_bytes(content)
        return read_state(path)

    return run


@pytest.mark.parametrize("form", WHOLE)
def test_every_format_gives_the_arrays_back(read, form):
    found = read(WHOLE[form])
    assert found.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_strides_and_shared_storages(read, form):
    x = np.arange(24, dtype=np.float32)
    whole = tf.stored("7", x)
    views = {
        "all": tf.View(whole, 0, (4, 6), (6, 1)),
        "transposed": tf.View(whole, 0, (6, 4), (1, 6)),
        "slice": tf.View(whole, 8, (2, 2), (6, 2)),
        "scalar": tf.View(whole, 23, (), ()),
    }
    found = read(FORMS[form](views))
    square = x.reshape(4, 6)
    wanted = {"all": square, "transposed": square.T, "slice": square[1:3, 2::2], "scalar": x[23]}
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_becomes_float32(read, form):
    bits = np.array([0x3F80, 0xC000, 0x3EAB], np.uint16)  # 1, -2, about 1/3
    found = read(FORMS[form]({"w": tf.View(tf.stored("0", bits, "bfloat16"), 0, (3,), (1,))}))["w"]
    np.testing.assert_array_equal(found, np.array([1, -2, 0.333984375], np.float32))
    header = {"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    np.testing.assert_array_equal(read(safetensors(header, bits.tobytes()))["w"], found)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": [1, {"x": None}]}},
        lambda s: {"model": s, "args": "none"},
        lambda s: {"state_dict": {"a": tf.view("9", np.zeros(2))}, "state_dict_ema": s},
        lambda s: {"state_dict": {"model": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: tf.Raw(tf.ORDERED_DICT.code + tf.code(s)[1:] + tf.code({"_metadata": {}}) + b"b"),
    ],
    ids=["epoch", "model", "ema", "nested", "module", "compiled", "ordered"],
)  # fmt: skip
def test_wrappers_and_prefixes_are_seen_through(tmp_path, wrapped):
    state = tf.state_dict({"a.weight": np.ones(3, np.float32), "b.bias": np.zeros(2, np.float32)})
    value = wrapped(state)
    content = tf.zip_file(value)
    if isinstance(value, tf.Raw):  # the writer does not look into opcodes for storages
        content = tf.zip_file(value, extra={f"net/data/{v.storage.key}": v.storage.data for v in state.values()})
    (tmp_path / "x.pth").write_bytes(content)
    assert list(read_state(tmp_path / "x.pth")) == ["a.weight", "b.bias"]


PAYLOADS = {
    "os.system": ("os", "system", "touch {}"),
    "posix.system": ("posix", "system", "touch {}"),
    "builtins.exec": ("builtins", "exec", "open({!r}, 'w')"),
    "builtins.eval": ("__builtin__", "eval", "open({!r}, 'w')"),
    "subprocess": ("subprocess", "getoutput", "touch {}"),
    "nested pickle": ("torch.storage", "_load_from_bytes", "{}"),
    "not on the list": ("torch", "load", "{}"),
    "attribute of an allowed module": ("collections", "namedtuple", "{}"),
    "dotted": ("torch._utils", "os.system", "{}"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_and_not_executed(read, tmp_path, form, payload):
    module, function, text = PAYLOADS[payload]
    mark = tmp_path / "executed"
    evil = tf.call(module, function, text.format(str(mark)))
    for value in (evil, {"w": tf.view("0", np.ones(2, np.float32)), "x": evil}, tf.Raw(evil.code + b"0" + tf.code({}))):
        with pytest.raises(UserError, match=f"wants to import '{module}.{function}'.* nothing was executed") as caught:
            read(FORMS[form](value))
        assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_payload_that_works_with_pickle_itself_does_nothing_here(read, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = pickle.dumps({"w": Evil()}, protocol=protocol)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/data.pkl", content)
        for whole in (content, buffer.getvalue()):
            with pytest.raises(UserError):
                read(whole)
    assert not (tmp_path / "executed").exists()
    pickle.loads(content)
    assert (tmp_path / "executed").exists()  # the payload was a real one


ONE = tf.view("0", np.arange(6, dtype=np.float32))
BOMB = b"\0" * 2**24


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def npy(shape: str, descr: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def entry(**changes) -> dict:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


BROKEN = {
    "empty": (b"", "it is empty"),
    "text": (b"hello, these are no weights", "no PyTorch, safetensors or npz file"),
    "zip of something else": (zipped(a=b"x"), "without data.pkl"),
    "zip bomb": (zipped(net__data__0=BOMB, **{"net__data.pkl": tf.pickled({"w": ONE})}), "zip bomb"),
    "npz bomb": (zipped(**{"a.npy": BOMB}), "zip bomb"),
    "compressed storage of another size": (
        tf.zip_file({"w": tf.View(tf.Stored("0", "FloatStorage", BOMB[:400], 10), 0, (10,), (1,))}),
        "should have 40 bytes and has 400",
    ),
    "missing storage": (zipped(**{"net__data.pkl": tf.pickled({"w": ONE})}), "storage '0' is missing"),
    "big endian zip": (
        zipped(**{"net__data.pkl": tf.pickled({"w": ONE}), "net__byteorder": b"big"}), "big-endian"),
    "big endian legacy": (tf.legacy_file({"w": ONE}, little_endian=False), "big-endian"),
    "TorchScript": (tf.zip_file({"w": ONE}, extra={"net/constants.pkl": b""}), "TorchScript"),
    "tensor larger than its storage": (tf.zip_file({"w": tf.View(ONE.storage, 0, (7,), (1,))}), "does not fit in its"),
    "offset out of range": (tf.legacy_file({"w": tf.View(ONE.storage, 4, (3,), (1,))}), "does not fit in its"),
    "negative stride": (tf.zip_file({"w": tf.View(ONE.storage, 5, (3,), (-1,))}), "something else than sizes"),
    "stride of zero": (tf.zip_file({"w": tf.View(ONE.storage, 0, (2**40,), (0,))}), "does not fit in its"),
    "huge tensor": (tf.legacy_file({"w": tf.View(ONE.storage, 0, (2**62, 2**62), (1, 1))}), "does not fit in its"),
    "axes without strides": (tf.zip_file({"w": tf.View(ONE.storage, 0, (2, 3), (1,))}), "2 axes but 1 strides"),
    "many views of one storage": (
        tf.zip_file({str(i): tf.view("0", np.zeros(3000, np.float32)) for i in range(999)}), "times the file"),
    "a list": (tf.zip_file([1, 2]), "holds no state dict"),
    "a number for a tensor": (tf.zip_file({"w": ONE, "epoch": 3}), "'epoch' in its state dict is no tensor but int"),
    "a storage of objects": (
        tf.zip_file({"w": tf.View(tf.Stored("0", "QInt8Storage", b"\0", 1), 0, (1,), (1,))}), "wants to import"),
    "NaN": (tf.zip_file(tf.state_dict({"a": np.ones(2), "b": np.array([1, np.nan])})), "'b' holds values that are not"),
    "infinite": (safe({"b": np.array([-np.inf])}), "'b' holds values that are not finite"),
    "an object's attributes": (tf.zip_file(tf.Raw(tf.code([1]) + tf.code({"a": 1}) + b"b")), "no dict"),
    "an instance": (tf.zip_file(tf.Raw(b"(" + b"ios\nsystem\n")), "uses INST"),
    "extension code": (tf.zip_file(tf.Raw(b"\x82\x01")), "uses EXT1"),
    "stack underflow": (tf.zip_file(tf.Raw(b"t")), "pickle is broken"),
    "unhashable key": (tf.zip_file(tf.Raw(b"}]Ns")), "pickle is broken"),
    "call of data": (tf.zip_file(tf.Raw(tf.code("x") + tf.code(()) + b"R")), "calls something"),
    "call of a storage": (tf.zip_file(tf.call("torch", "FloatStorage", 3)), "calls something"),
    "safetensors: header too long": (struct.pack("<Q", 2**60) + b"{}", "it is truncated"),
    "safetensors: no JSON": (struct.pack("<Q", 3) + b"{x}", "no JSON"),
    "safetensors: deep JSON": (struct.pack("<Q", 10**5) + b'{"a":' + b"[" * (10**5 - 5), "no JSON"),
    "safetensors: named twice": (
        struct.pack("<Q", 13) + b'{"a":1,"a":2}', "names a tensor twice"),
    "safetensors: overlap": (
        safetensors(entry() | {"b": entry(data_offsets=[4, 12])["a"]}, bytes(12)), "overlap or leave gaps"),
    "safetensors: gap": (
        safetensors(entry() | {"b": entry(data_offsets=[12, 20])["a"]}, bytes(20)), "overlap or leave gaps"),
    "safetensors: out of range": (safetensors(entry(), bytes(4)), "ends at byte 8 of 4"),
    "safetensors: more data": (safetensors(entry(), bytes(9)), "accounts for 8"),
    "safetensors: size": (safetensors(entry(shape=[3]), bytes(8)), "needs 12 bytes, its offsets give 8"),
    "safetensors: negative": (safetensors(entry(shape=[-2]), bytes(8)), "no valid shape and offsets"),
    "safetensors: huge": (safetensors(entry(shape=[2**62, 2**62]), bytes(8)), "its offsets give 8"),
    "safetensors: dtype": (safetensors(entry(dtype="F8_E4M3"), bytes(8)), "is of type F8_E4M3"),
    "safetensors: no shape": (safetensors({"a": {"dtype": "F32"}}, b""), "lacks one of"),
    "safetensors: nothing": (safetensors({}, b""), "holds no tensor"),
    "npz: objects": (npz({"a": np.array([None])}), "Python objects"),
    "npz: complex": (npz({"a": np.array([1j])}), "of type complex128"),
    "npz: text": (npz({"a": np.array(["x"])}), "of type <U1"),
    "npz: claims a large array": (zipped(**{"a.npy": npy("(1000000000000,)", data=bytes(8))}), "no NumPy array"),
    "npz: a call in its header": (zipped(**{"a.npy": npy("exit()")}), "no NumPy array"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(read, name):
    content, said = BROKEN[name]
    with pytest.raises(UserError) as caught:
        read(content)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path):
    for path, said in ((tmp_path / "no.pth", "does not exist"), (tmp_path, "is not a file")):
        with pytest.raises(UserError, match=said):
            read_state(path)


SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}
DAMAGED = {
    "zip": tf.zip_file(tf.state_dict(SMALL)),
    "legacy": tf.legacy_file(tf.state_dict(SMALL)),
    "safetensors": safe(SMALL),
    "npz": npz(SMALL),
}


def taken(files, content):
    return files._weights_in(files._read(io.BytesIO(content), len(content)), "auto")[0]


@pytest.mark.parametrize("form", DAMAGED)
def test_every_truncation_is_refused(form):
    from cnn.convert import files

    content = DAMAGED[form]
    for length in range(len(content)):
        with pytest.raises(UserError):
            files._checked(taken(files, content[:length]))


@pytest.mark.parametrize("form", DAMAGED)
def test_every_flipped_byte_is_refused_or_read(form):
    """No other error, no hang, and never more than the file's few tensors."""
    from cnn.convert import files

    content, refused = DAMAGED[form], 0
    for place in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flip
            try:
                found = files._checked(taken(files, bytes(damaged)))
                assert sum(array.size for array in found.values()) <= 64
            except UserError:
                refused += 1
    assert refused > len(content)

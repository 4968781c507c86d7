"""Reads the pickles inside PyTorch files without executing anything.

A pickle is a program for a stack machine, and unpickling runs it: it may import and call whatever it names.
This machine knows only the operations that build plain data. A name that the program wants to import is compared
with short lists and stands for nothing but itself; "calling" one of REBUILD makes a tensor or a dict of ours, "calling"
one of INERT, the settings and counters that trainers save beside the weights, makes an empty `Opaque`. Nothing is ever
imported or called by name. A program can also be short and make much: operations and copied elements are counted.
"""

import pickletools
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

from cnn.errors import UserError

# PyTorch's storage types and the NumPy types of their elements; NumPy has no bfloat16, its bits are read.
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "|b1",
}  # fmt: skip
MAX_AXES = 16
MAX_OPERATIONS = 2**20  # of one pickle; that of a network of 10,000 tensors has 300,000
MAX_COPIED = 2**22  # elements that its calls copy


class Refused(UserError):
    """A stream that is no plain state dict, or is broken; the text says why."""


class Storage(NamedTuple):
    """A flat run of numbers elsewhere in the file."""

    key: str
    dtype: str
    size: int

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bfloat16" else int(self.dtype[2])


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A name on the list, which stands for itself."""

    module: str
    name: str


class Opaque:
    """What a name of INERT would have made: nothing is known of it but the name, and whatever is put in is dropped."""

    def __init__(self, name: Name):
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name.module}.{self.name.name}"


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """What torch calls _rebuild_tensor_v2, checked against its storage."""
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise Refused(f"a tensor of it has {len(shape)} axes but {len(strides)} strides")
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise Refused("a tensor of it is described by something else than sizes and a storage")
    size, last = 1, offset
    for n, stride in zip(shape, strides, strict=True):
        size, last = size * n, last + (n - 1) * stride
    if size and (last >= storage.size or size > storage.size):
        raise Refused(f"a tensor of shape {tuple(shape[:8])} does not fit in its storage of {storage.size} numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Refused("a parameter of it is no tensor")
    return tensor


def _size(numbers: Any) -> tuple[int, ...]:
    return tuple(numbers)


REBUILD: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): _ordered_dict,
    Name("torch", "Size"): _size,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
}
NAMES = {*REBUILD, *(Name("torch", storage) for storage in STORAGES)}
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
INERT = {
    Name("argparse", "Namespace"), Name("types", "SimpleNamespace"), Name("collections", "defaultdict"),
    Name("collections", "Counter"), Name("collections", "deque"), Name("datetime", "datetime"),
    Name("datetime", "timedelta"), Name("datetime", "date"), Name("uuid", "UUID"), Name("copyreg", "_reconstructor"),
    *(Name(module, kind) for module in ("pathlib", "pathlib._local")
      for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")),
    *(Name(module, kind) for module in ("builtins", "__builtin__")
      for kind in ("set", "frozenset", "list", "dict", "tuple", "int", "float", "str", "bool", "object", "slice",
                   "complex", "bytearray")),
    *(Name(module, function) for module in _ARRAYS for function in ("scalar", "_reconstruct")),
    Name("numpy", "dtype"), Name("numpy", "ndarray"), Name("_codecs", "encode"),
    Name("torch", "device"), Name("torch.torch_version", "TorchVersion"),
    *(Name("torch", dtype) for dtype in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
                                         "uint8", "bool")),
    Name("easydict", "EasyDict"), Name("yacs.config", "CfgNode"), Name("addict.addict", "Dict"),
    Name("fvcore.common.config", "CfgNode"), Name("detectron2.config.config", "CfgNode"),
    Name("ml_collections.config_dict.config_dict", "ConfigDict"),
}  # fmt: skip
# Packages of trainers all of whose names are inert here.
INERT_PACKAGES = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "timm", "transformers", "mmengine")


def read_stream(file: BytesIO, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The next pickle of `file`, as plain Python values and `Tensor`; leaves the file behind it.

    Args:
      persistent: what a persistent id (a storage, in PyTorch's files) stands for.

    Raises:
      Refused: it names something that is not on the list, uses an operation that plain data do not need, or is
        broken.
    """
    try:
        return _Machine(persistent).run(file)
    except UserError:
        raise
    except Exception as error:  # a broken program can fail in any of its operations
        raise Refused(f"its pickle is broken ({type(error).__name__}: {str(error)[:80]})") from error


class _Machine:
    """The stack, the stacks below the open marks, and the memo of one pickle."""

    def __init__(self, persistent: Callable[[Any], Any] | None):
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self, file: BytesIO) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPERATIONS:
                raise Refused(f"its pickle has more than {MAX_OPERATIONS} operations")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in VALUES:
                self.stack.append(arg)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif name in MEMOIZE:
                self.memo[len(self.memo) if arg is None else arg] = self.stack[-1]
            elif name in RECALL:
                self.stack.append(self.memo[arg])
            elif name in OPERATIONS:
                OPERATIONS[name](self, arg)
            elif name not in IGNORED:
                raise Refused(f"its pickle uses {name}, which plain tensors do not need; {ADVICE}")
        raise Refused("its pickle has no end")

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def tuple_of_marked(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("stack is empty")
        self.stack[-count:] = [items]

    def list_of_marked(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(items)

    def dict_of_marked(self, _: Any) -> None:
        items = self.marked()
        self.stack.append({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], Opaque):
            return
        if not isinstance(self.stack[-1], list):
            raise TypeError("append to no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            return
        if not isinstance(target, dict):
            raise TypeError("an item of no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | Opaque | Name):  # trainers have classes and paths for keys
                raise TypeError("a key that is neither text nor a number")
            target[key] = value

    def opaque_set(self, _: Any) -> None:
        self.stack.append(Opaque(Name("builtins", "set")))

    def opaque_frozenset(self, _: Any) -> None:
        self.marked()
        self.opaque_set(_)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def named(self, module: Any, name: Any) -> None:
        found = Name(str(module), str(name))
        inert = found in INERT or found.module.partition(".")[0] in INERT_PACKAGES and "." not in found.name
        if found not in NAMES and not inert:
            text = f"{module}.{name}"[:80]
            raise Refused(f"it wants to import '{text}', which tensors do not need; nothing was executed. {ADVICE}")
        self.stack.append(found)

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple) or function in NAMES - REBUILD.keys():
            raise Refused(f"its pickle calls something that is no function of tensors; {ADVICE}")
        if function not in REBUILD:
            self.stack.append(Opaque(function))
            return
        self.copied += sum(len(part) for part in arguments if isinstance(part, list | tuple | dict))
        if self.copied > MAX_COPIED:
            raise Refused(f"its pickle copies more than {MAX_COPIED} elements")
        self.stack.append(REBUILD[function](*arguments))

    def new_object(self, _: Any) -> None:
        self.reduce(_)

    def new_object_with_names(self, _: Any) -> None:
        self.stack.pop()
        self.reduce(_)

    def build(self, _: Any) -> None:
        """Attributes of an object: of a state dict its `_metadata`, which nobody here needs."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | Opaque):
            raise Refused(f"its pickle sets attributes of something that is no dict; {ADVICE}")

    def persistent_id(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("its pickle refers to a storage before any can be there")
        self.stack.append(self.persistent(self.stack.pop()))


ADVICE = "save only the weights where it was made: torch.save(model.state_dict(), FILE)"
VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
MEMOIZE = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
RECALL = {"GET", "BINGET", "LONG_BINGET"}
IGNORED = {"PROTO", "FRAME"}
OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.tuple_of_marked,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of_marked,
    "DICT": _Machine.dict_of_marked,
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.marked()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    "GLOBAL": lambda machine, arg: machine.named(*arg.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_names,
    "EMPTY_SET": _Machine.opaque_set,
    "FROZENSET": _Machine.opaque_frozenset,
    "POP": lambda machine, _: machine.stack.pop(),
    "ADDITEMS": lambda machine, _: machine.append(machine.marked()),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}

"""What a user can get wrong: the cases of `tests/test_bad_input.py`, and what they need around them."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.support import torch_files

CONFIG = """
from ml_collections import ConfigDict
from cnn import config

def get_config(arg=""):
    c = config.default()
    c.total_steps = 4
    c.model = ConfigDict({"name": "mlp", "width": 8, "depth": 1})
    c.input.dataset, c.input.fake, c.input.batch_size = "digits", True, 8
    c.optim.lr, c.log_every_steps = 0.1, 2
    c.eval.split, c.eval.every_steps, c.eval.baselines = "test", 2, False
    c.mesh.devices = 1
    return config.finish(c, arg)
"""
FOLDER = ["input.dataset=folder", "input.fake=False", "input.data_dir={here}/images", "model.width=4"]
RESIZED = [f"input.{kind}_transforms=(('resize',{{{{'size':8}}}}),)" for kind in ("train", "eval")]


class Place:
    """The paths of one case: `here` for its own files, `base` with a config and a finished run."""

    def __init__(self, base: Path, here: Path):
        self.base, self.here = base, here
        self.names = {"config": str(base / "base.py"), "run": str(base / "run"), "here": str(here)}

    def config(self, text: str) -> None:
        (self.here / "mine.py").write_text(text)

    def picture(self, name: str, size: int = 9) -> None:
        from PIL import Image

        path = self.here / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name) + size).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(path)

    def pictures(self, classes: str = "ab", sizes: tuple[int, ...] = (9,)) -> None:
        for name in classes:
            for i in range(20):
                self.picture(f"{name}/{i}.png", sizes[i % len(sizes)])

    def copy_run(self) -> Path:
        return Path(shutil.copytree(self.base / "run", self.here / "copy"))


class Case(NamedTuple):
    """`argv` is split at blanks and filled with the paths of `Place.names`; `said` is a regex."""

    name: str
    argv: str
    said: str
    setup: Callable[[Place], None] | None = None


def train(name: str, *overrides: str, said: str, setup: Callable[[Place], None] | None = None) -> Case:
    fields = " ".join(f"--config.{item}" for item in overrides)
    return Case(name, f"train --config={{config}} --workdir={{here}}/w {fields}", said, setup)


def transforms(name: str, steps: str, said: str) -> Case:
    return train(name, f"input.train_transforms=({steps})", said=said)


def own(name: str, old: str, new: str, said: str) -> Case:
    """A config file of the user's that is the good one with `old` replaced by `new`."""
    text = CONFIG.replace(old, new)
    assert text != CONFIG
    return Case(name, "train --config={here}/mine.py --workdir={here}/w", said, lambda p: p.config(text))


def folder(name: str, said: str, setup: Callable[[Place], None], *overrides: str) -> Case:
    return train(name, *FOLDER, *(overrides or RESIZED), said=said, setup=setup)


def convert(name: str, flag: str, said: str) -> Case:
    """Something wrong besides the file."""
    argv = f"convert {{here}}/x.pth --model=resnet18 --out={{here}}/out {flag}"
    return Case(name, argv, said, write("x.pth", torch_files.zip_file(WEIGHTS)))


WEIGHTS = torch_files.state_dict({"w": np.ones(3, np.float32)})


def damage(place: Place) -> None:
    """Cuts the arrays of every checkpoint of a copied run."""
    for file in (place.copy_run() / "checkpoints").rglob("*"):
        if file.is_file() and "d" in file.relative_to(place.here).parts:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def another_network(place: Place) -> None:
    (place.copy_run() / "config.json").unlink()


def npz(**arrays) -> Callable[[Place], None]:
    return lambda place: np.savez(place.here / "x.npz", **{k.replace("__", "/"): v for k, v in arrays.items()})


def pickled(place: Place) -> None:
    np.savez(place.here / "x.npz", **{"params/head/kernel": np.array([{"a": 1}], dtype=object)})


def write(name: str, content: bytes) -> Callable[[Place], None]:
    def setup(place: Place) -> None:
        path = place.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return setup


def both(*setups: Callable[[Place], None]) -> Callable[[Place], None]:
    return lambda place: [setup(place) for setup in setups] and None


TRAIN = "train --config={config} --workdir={here}/w"
COPY = "train --config={config} --workdir={here}/copy"
CASES = [
    # Flags
    Case("unknown verb", "trian --config=x", "unknown verb 'trian'. Did you mean 'train'"),
    Case("unknown flag", TRAIN + " --zzz=1", "unknown flag '--zzz'. Valid: -h, --help, --config, --workdir"),
    Case("misspelt flag", TRAIN + " --workdri=x", "unknown flag '--workdri'. Did you mean '--workdir'"),
    Case("flag without value", "train --config={config} --workdir", "--workdir: expected one argument"),
    Case("flag of wrong type", "evaluate --workdir={run} --batch_size=many", "invalid int value: 'many'"),
    Case("no config", "train --workdir={here}/w", "required: --config"),
    Case("no workdir", "train --config={config}", "required: --workdir"),
    Case("stray argument", TRAIN + " stray", "unexpected argument 'stray'"),
    Case("override without value", TRAIN + " --config.seed", "--config.seed needs a value"),
    Case("unknown list kind", "list modles", "unknown kind 'modles'. Did you mean 'models'"),
    Case("unknown list name", "list models resnet81", "unknown model 'resnet81'. Did you mean 'resnet18'"),
    Case("unknown data action", "data chekc digits", "unknown action of `cnn data` 'chekc'. Did you mean 'check'"),
    Case("data shown where nothing can be written", "data show --config={config} --out=/proc/w", "/proc/w' cannot be"),
    Case("data without a name", "data show", "takes a NAME or --config=FILE"),
    Case("unknown data set name", "data check digit", "unknown dataset 'digit'. Did you mean 'digits'"),
    # Config files
    Case("missing config file", "train --config={here}/no.py --workdir={here}/w", "no.py' does not exist"),
    Case(
        "misspelt config file",
        "train --config={here}/mien.py --workdir={here}/w",
        "mien.py' does not exist. Did you mean '.*mine.py'",
        lambda p: p.config(CONFIG),
    ),
    Case("config is a folder", "train --config={here} --workdir={here}/w", "does not exist"),
    Case("unknown config argument", "train --config={config}:smok --workdir={here}/w", "no argument 'smok'"),
    own("syntax error", "c.total_steps = 4", "c.total_steps = = 4", "mine.py', line 7: SyntaxError"),
    own("no get_config", "def get_config", "def config_of", "no attribute 'get_config'"),
    own("no ConfigDict", "return config.finish(c, arg)", "return 3", "must return an ml_collections.ConfigDict"),
    own("config raises", "c.total_steps = 4", "c.total_steps = 1 // 0", "line 7: ZeroDivisionError"),
    own("unknown field", "c.total_steps", "c.total_step", "'total_step'. Did you mean 'total_steps'"),
    own("unknown field below", "c.optim.lr", "c.optim.rl", "config field in 'optim' 'rl'"),
    own("wrong type", "c.total_steps = 4", "c.total_steps = 'four'", "line 7: TypeError"),
    own("lost group", "c.mesh.devices = 1", "del c.mesh", "'mesh' is missing; start from"),
    # Fields
    train("override of an unknown field", "sead=1", said="unknown config field 'sead'. Did you mean 'seed'"),
    train("override of an unknown field below", "eval.metrc=x", said="'eval' 'metrc'. Did you mean 'metric'"),
    train("override of a group", "optim=adamw", said="'optim' is a group"),
    train("override below a value", "seed.x=1", said="'seed' has no fields"),
    train("override of wrong type", "optim.lr=fast", said="'optim.lr' is of type float: 'fast' is not"),
    train("override with a float for an int", "seed=1.5", said="'seed' is of type int"),
    train("override with no bool", "optim.nesterov=maybe", said="use true or false, not 'maybe'"),
    train("both units", "total_steps=4", "total_epochs=1", said="total_epochs and total_steps, not both"),
    train("negative duration", "eval.every_epochs=-1", said="every_epochs is -1.0, it must be above 0"),
    train("zero steps", "total_steps=0", said="set total_epochs or total_steps to a positive number"),
    train("no duration", "total_steps=None", said="set total_epochs or total_steps"),
    train("unknown model", "model.name=resnet81", said="unknown model 'resnet81'. Did you mean 'resnet18'"),
    train("unknown model option", "model.widht=8", said="option of model 'mlp' 'widht'. Did you mean 'width'"),
    train("bad model option", "model.width=-1", said="model 'mlp' with .*width -1 must be positive"),
    train("unknown task", "task.name=clasification", said="unknown task .* Did you mean 'classification'"),
    train("unknown task option", "task.mixup=1.0", said="option of task .*Did you mean 'mixup_alpha'"),
    train("unknown loss", "task.loss=sotfmax", said="unknown loss 'sotfmax'. Did you mean 'softmax'"),
    train("smoothing out of range", "task.label_smoothing=1.5", said=r"label_smoothing is 1.5; it must be in \[0, 1"),
    train("unknown data set", "input.dataset=digts", said="unknown dataset 'digts'. Did you mean 'digits'"),
    transforms("unknown transform", "('flp',{}),", "unknown transform 'flp'. Did you mean 'flip'"),
    transforms("unknown transform option", "('flip',{{'q':1}}),", "option of transform 'flip' 'q'"),
    transforms("transform out of range", "('flip',{{'p':7}}),", "transform 'flip' with"),
    transforms("transform without options", "'flip',", r"\(\('pad_crop', .* or \(\); 'flip' is no \(name, options\)"),
    transforms("one transform, not a list of them", "'flip',{}", "'flip' is no .name, options."),
    train("transforms as a dict", "input.train_transforms={'flip':{}}", said="{'flip': {}} is no .name, options."),
    train("option of a missing transform", "input.train_transforms.flip.p=1", said="to add it give the whole list"),
    train("unknown optimizer", "optim.name=adam", said="unknown optimizer 'adam'. Did you mean 'adamw'"),
    train("unknown schedule", "schedule.name=cosin", said="unknown schedule 'cosin'. Did you mean 'cosine'"),
    train("unknown dtype", "dtype=float16", said="dtype 'float16' is unknown. Valid: auto, float32, bfloat16"),
    own(
        "unknown bn mode",
        '{"name": "mlp", "width": 8, "depth": 1}',
        '{"name": "resnet_small", "bn": "local"}',
        "bn 'local' is not 'global', 'group:K'",
    ),
    own(
        "groups that do not divide the batch",
        '{"name": "mlp", "width": 8, "depth": 1}',
        '{"name": "resnet_small", "stage_sizes": (1,), "bn": "group:3"}',
        "'group:3' needs a batch size that 3 divides, got 8",
    ),
    train("no regex", "optim.freeze=(", said=r"optim.freeze '\(' is not a regular expression"),
    train("regex that matches nothing", "optim.freeze=conv.*", said="'conv.*' matches no parameter; names look like"),
    train("everything frozen", "optim.freeze=.*", said="freezes every parameter"),
    train("fsdp that matches nothing", "mesh.fsdp=conv", said="mesh.fsdp 'conv' matches nothing"),
    train("batch and devices", "mesh.devices=8", "input.batch_size=12", said="must be a multiple of 8: 8 device"),
    train("batch and accumulation", "optim.accumulate_steps=3", said="must be a multiple of 3: 1 device"),
    train("empty batch", "input.batch_size=0", said="input.batch_size 0 must be a multiple"),
    train("warm-up longer than the run", "schedule.warmup_steps=9", said="warm-up of 9 steps is longer"),
    train("too many devices", "mesh.devices=64", said=r"mesh.devices is 64, but this machine has 8 cpu device\(s\)"),
    train("unknown metric", "eval.metric=acuracy", said="unknown eval.metric 'acuracy'. Did you mean 'accuracy'"),
    train("metric that is no number", "eval.metric=confusion", said="unknown eval.metric 'confusion'"),
    train("unknown mode", "eval.mode=maximum", said="unknown eval.mode 'maximum'. Did you mean 'max'"),
    train("unknown split", "eval.split=tset", said="unknown split 'tset'. Did you mean 'test'"),
    train("split syntax", "input.train_split=train[:90", said="cannot read split"),
    train("empty split", "input.train_split=train[:0%]", said="holds no example"),
    train("split out of range", "input.train_split=train[:200%]", said="outside -100%..100%"),
    train(
        "mean of wrong length",
        "input.mean=(0.1,0.2)",
        "input.std=(1.0,1.0)",
        said="input.mean has 2 channels, the input has 1",
    ),
    train("mean without std", "input.mean=0.5", said="input.mean and input.std need one number per channel"),
    train("mean of text", "input.mean=grey", said="input.mean is .* tuple of numbers"),
    train("learning rate of zero", "optim.lr=0", said="optim.lr is 0.0, it must be above 0"),
    train("malformed multipliers", "optim.lr_multipliers=0.1", said="must hold pairs"),
    train("malformed profile", "profile_steps=3", said="must be two steps"),
    # Data
    folder("missing folder", "images does not exist; set --config.input.data_dir", lambda p: None),
    folder("empty folder", "images holds no folders", lambda p: (p.here / "images").mkdir()),
    folder("folder is a file", "images is a file, not a folder", write("images", b"x")),
    folder("one class", "holds only the class 'a'", lambda p: p.pictures("a")),
    folder(
        "unreadable images",
        "class 'b' has no readable image",
        both(lambda p: p.pictures("a"), write("images/b/1.png", b"no image"), write("images/b/2.png", b"")),
    ),
    folder("no data_dir for a folder", "needs --config.input.data_dir=DIR", lambda p: None, "input.data_dir="),
    train(
        "missing manual data set",
        "input.dataset=imagenet2012",
        "input.fake=False",
        "input.data_dir={here}",
        *RESIZED,
        said="cannot prepare imagenet2012",
    ),
    # Checkpoints
    train("init_from nothing", "init_from={here}/no", said="no' does not exist; give a run's workdir"),
    train("init_from an empty folder", "init_from={here}", said="holds no checkpoint"),
    train("init_from no npz", "init_from={here}/x.npz", said="not a readable .npz", setup=write("x.npz", b"PK no")),
    train("init_from a missing npz", "init_from={here}/x.npz", said="x.npz' does not exist"),
    train("init_from pickles", "init_from={here}/x.npz", said="not a readable .npz", setup=pickled),
    train("init_from a pickle", "init_from={here}/x.npz", said="is not a", setup=write("x.npz", pickle.dumps({}))),
    train(
        "init_from another network",
        "init_from={here}/x.npz",
        said="not one of its 1 tensors fits",
        setup=npz(conv__kernel=np.ones((3, 3))),
    ),
    train(
        "init_from not finite",
        "init_from={here}/x.npz",
        said="'params/head/bias' holds values that are not finite",
        setup=npz(head__bias=np.full(10, np.nan)),
    ),
    Case("damaged checkpoints", COPY, "no sound checkpoint in .*copy/checkpoints: checkpoint 4: ", damage),
    Case("damaged checkpoint, evaluate", "evaluate --workdir={here}/copy", "it cannot be read", damage),
    Case("damaged checkpoint, fine-tune", TRAIN + " --config.init_from={here}/copy", "cannot be read", damage),
    Case("checkpoint of another network", COPY + " --config.model.width=9", "does not fit this", another_network),
    Case("another config", "train --config={config} --workdir={run} --config.optim.lr=0.2", r"optim.lr: 0.1 -> 0.2"),
    Case(
        "corrupt config.json",
        COPY,
        "config.json is damaged",
        lambda p: (p.copy_run() / "config.json").write_text("{"),
    ),
    # Weights from elsewhere
    Case("convert nothing", "convert {here}/no.pth --model=resnet18", "no.pth' does not exist; give a .pth"),
    Case("convert a folder", "convert {here} --model=resnet18", "is not a file"),
    Case("convert without a model", "convert {config}", "required: --model"),
    Case("convert to an unknown model", "convert {config} --model=resnet81", "Did you mean 'resnet18'"),
    Case("convert text", "convert {config} --model=resnet18", "is refused: it is no PyTorch, safetensors or npz"),
    Case("convert a pickle", "convert {here}/x.pth --model=resnet18", "is refused", write("x.pth", pickle.dumps({}))),
    Case(
        "convert a payload",
        "convert {here}/x.pth --model=resnet18",
        "wants to import 'os.system'.* nothing was executed",
        write("x.pth", torch_files.zip_file(torch_files.call("os", "system", "false"))),
    ),
    Case(
        "convert a truncated file",
        "convert {here}/x.pth --model=resnet18",
        "truncated",
        write("x.pth", torch_files.zip_file(WEIGHTS)[:-9]),
    ),
    Case(
        "convert another network's file",
        "convert {here}/x.pth --model=resnet18",
        "layout 'torchvision' of resnet18: the table has no rule for 'w'",
        write("x.pth", torch_files.zip_file(WEIGHTS)),
    ),
    convert("convert with an unknown layout", "--layout=keras", "unknown layout of resnet18 'keras'"),
    convert("convert with an option without a value", "--option=padding", "'padding' must be NAME=VALUE"),
    convert("convert with an unknown option", "--option=pading=1", "unknown option of model 'resnet18' 'pading'"),
    convert("convert with a mean of text", "--mean=grey", "--mean 'grey' must be numbers"),
    convert("convert with another method", "--method=nearest", "method must be one of area, bilinear, bicubic"),
    convert("convert with an unknown data set", "--dataset=digit", "unknown dataset 'digit'"),
    convert("convert with missing classes", "--classes={here}/no.txt", "no.txt' cannot be read: No such file"),
    convert("convert with activations of nothing", "--activations={here}/no.npz", "no.npz' does not exist"),
    Case("convert for series", "convert {here}/x.pth --model=mnist1d_cnn", "makes networks for pictures"),
    Case("fine-tune from an unknown network", TRAIN + " --config.init_from=pretrained:efficientnet_lite9",
         "unknown pretrained network 'efficientnet_lite9'. Did you mean 'efficientnet_lite"),
    Case("predict with a model alone", "predict --model=efficientnet_lite0 {config}", "give --workdir=RUN, or --model"),
    Case("predict pretrained without a model", "predict --pretrained {config}", "give --workdir=RUN, or --model"),
    Case("predict with both", "predict --workdir={run} --model=resnet18 --pretrained x", "give --workdir=RUN, or"),
    Case("predict with what has no weights", "predict --model=resnet18 --pretrained x",
         "unknown pretrained network 'resnet18'"),
    # Workdirs
    Case("workdir is a file", "train --config={config} --workdir={config}", "cannot be written"),
    Case("workdir below a file", "train --config={config} --workdir={config}/w", "Not a directory; choose another"),
    Case("workdir that cannot be written", "train --config={config} --workdir=/proc/w", "/proc/w' cannot be written"),
    # Evaluate and predict
    Case("evaluate nothing", "evaluate --workdir={here}/no", "does not exist"),
    Case("evaluate a folder without a run", "evaluate --workdir={here}", "holds no checkpoint"),
    Case("evaluate a file", "evaluate --workdir={config}", "is a file; give a run's workdir"),
    Case("evaluate an unknown split", "evaluate --workdir={run} --split=tset", "unknown split 'tset'"),
    Case("evaluate an unknown checkpoint", "evaluate --workdir={run} --checkpoint=3", "no checkpoint '3'"),
    Case("evaluate a misspelt checkpoint", "evaluate --workdir={run} --checkpoint=bset", "there are: last, best, 4"),
    Case("predict nothing", "predict --workdir={run}", "required: PATH"),
    Case("predict without a run", "predict --workdir={here} {config}", "holds no checkpoint"),
    Case("predict an empty folder", "predict --workdir={run} {here}", "holds no .jpg/.jpeg/.png files"),
    Case("predict an empty glob", "predict --workdir={run} {here}/*.png", "as a pattern it has no match"),
]



"""Command lines: flags, config files and overrides."""

import pytest

from cnn import config, flags
from cnn.errors import UserError

CONFIG = """
from ml_collections import ConfigDict
from cnn import config

def get_config(arg=""):
    c = config.default()
    c.total_epochs = 30.0
    c.schedule.warmup_epochs = 2.0
    c.model = ConfigDict({"name": "resnet_small", "width": 8})
    c.input.dataset = "digits"
    c.input.train_transforms = (("pad_crop", {"padding": 1}), ("flip", {}), ("flip", {"axis": "h"}))
    return config.finish(c, arg)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return str(path)


def load(file, *overrides):
    return flags.load_config(file, dict(item.split("=", 1) for item in overrides))


def test_a_config_is_locked_and_takes_its_argument(file):
    c = load(file)
    assert c.total_epochs == 30.0 and c.is_locked and c.model.is_locked
    assert load(file + ":smoke").total_steps == 4


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("seed", "7", 7),
        ("seed", "7.0", 7),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.lr", "1", 1.0),
        ("optim.nesterov", "False", False),
        ("optim.nesterov", "1", True),
        ("optim.decay_mask", ".*/(kernel|scale)", ".*/(kernel|scale)"),
        ("optim.decay_mask", "1", "1"),
        ("optim.clip_norm", "2", 2.0),
        ("input.mean", "(0.1, 0.2, 0.3)", (0.1, 0.2, 0.3)),
        ("input.mean", "[0.1]", (0.1,)),
        ("input.mean", "0.1", (0.1,)),
        ("input.mean", "()", ()),
        ("optim.lr_multipliers", "(('stem/.*', 0.1),)", (("stem/.*", 0.1),)),
        ("schedule.warmup_epochs", "None", None),
        ("model.bn", "group:4", "group:4"),
        ("model.stage_sizes", "[1, 2]", (1, 2)),
        ("model.remat", "true", True),
        ("task.label_smoothing", "0.1", 0.1),
    ],
)
def test_an_override_takes_the_type_of_its_field(file, field, text, value):
    found = load(file, f"{field}={text}")
    for name in field.split("."):
        found = found[name]
    assert found == value and type(found) is type(value)


PAD, FLIP, UPSIDE_DOWN = ("pad_crop", {"padding": 1}), ("flip", {}), ("flip", {"axis": "h"})


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["input.train_transforms=()"], ()),
        (["input.train_transforms=(('flip', {}),)"], (FLIP,)),
        (["input.train_transforms=[('flip', {}), ('erase', {'p': 1})]"], (FLIP, ("erase", {"p": 1}))),
        (["input.train_transforms.pad_crop.padding=2"], (("pad_crop", {"padding": 2}), FLIP, UPSIDE_DOWN)),
        (["input.train_transforms.0.mode=reflect"], (("pad_crop", {**PAD[1], "mode": "reflect"}), FLIP, UPSIDE_DOWN)),
        (["input.train_transforms.1.p=0.25"], (PAD, ("flip", {"p": 0.25}), UPSIDE_DOWN)),
        (
            ["input.train_transforms.2.axis=w", "input.train_transforms.2.p=1"],
            (PAD, FLIP, ("flip", {"axis": "w", "p": 1})),
        ),
        (
            ["input.eval_transforms=(('resize', {'size': 8}),)", "input.eval_transforms.resize.size=(8, 9)"],
            (("resize", {"size": (8, 9)}),),
        ),
    ],
)
def test_transforms_are_listed_anew_or_reached_into(file, overrides, found):
    c = load(file, *overrides)
    group = overrides[0].partition("=")[0].split(".")[1]
    assert c.input[group] == found and c.is_locked
    assert load(file).input.train_transforms == (PAD, FLIP, UPSIDE_DOWN)
    again = config.from_json(config.to_json(c))
    assert again.input[group] == found and all(type(options) is dict for _, options in again.input[group])


def test_another_unit_replaces_the_config_s(file):
    c = load(file, "total_steps=10", "schedule.warmup_steps=3")
    assert (c.total_steps, c.total_epochs) == (10, None)
    assert (c.schedule.warmup_steps, c.schedule.warmup_epochs) == (3, None)
    c = load(file, "profile_steps=(3, 5)", "optim.accumulate_steps=2")  # these have one unit only
    assert c.profile_steps == (3, 5) and c.optim.accumulate_steps == 2
    c = load(file, "total_steps=10", "total_epochs=1")  # both given: for `steps` to refuse
    assert (c.total_steps, c.total_epochs) == (10, 1.0)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sead=1", "unknown config field 'sead'. Did you mean 'seed'"),
        ("optim.learning_rate=1", "unknown config field in 'optim' 'learning_rate'"),
        ("optim.weigth_decay=1", "Did you mean 'weight_decay'"),
        ("optm.lr=1", "Did you mean 'optim'"),
        ("seed.x=1", "'seed' has no fields of its own"),
        ("model.width.x=1", "'model.width' has no fields of its own"),
        ("optim=1", "'optim' is a group; set one of its fields: accumulate_steps"),
        ("optim={}", "'optim' is a group"),
        ("model=resnet18", "'model' is a group; set one of its fields: name"),
        ("input.train_transforms.erase.p=1", r"flip, flip, pad_crop; to add it give the whole list.*\('erase', {}\)"),
        ("input.train_transforms.pad_corp.padding=1", "'pad_corp'. Did you mean 'pad_crop'. .*flip, pad_crop$"),
        ("input.train_transforms.7.p=1", "unknown transform in input.train_transforms '7'"),
        ("input.train_transforms.flip.p=1", "has 'flip' 2 times; say which by its position: .*s.1.p or .*s.2.p$"),
        ("input.train_transforms.pad_crop.paddin=1", "option of transform 'pad_crop' 'paddin'. Did you mean 'padding'"),
        ("input.train_transforms.pad_crop={}", "option of transform 'pad_crop' ''.*Valid: mode, padding, visible"),
        ("input.eval_transforms.flip.p=1", "Valid: none; to add it"),
        ("optim.lr=fast", "'optim.lr' is of type float: 'fast' is not"),
        ("optim.lr=None", "'optim.lr' is of type float"),
        ("seed=1.5", "'seed' is of type int"),
        ("seed=True", "'seed' is of type int"),
        ("optim.nesterov=yes", "use true or false, not 'yes'"),
        ("model.width=wide", "'model.width' is of type int"),
        ("total_steps=1.5", "'total_steps' is of type int"),
    ],
)
def test_overrides_that_are_refused(file, override, said):
    with pytest.raises(UserError, match=said):
        load(file, override)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", r"mine.py', line 1: SyntaxError"),
        ("x = 1", "AttributeError.*get_config"),
        ("def get_config(arg=''):\n    return {}", "must return an ml_collections.ConfigDict"),
        ("def get_config(arg=''):\n    x = 1\n    return 1 / 0", "line 3: ZeroDivisionError"),
        ("import nothing_like_this", "line 1: ModuleNotFoundError"),
        (CONFIG.replace("c.input.dataset", "c.input.datset"), "'input' 'datset'. Did you mean 'dataset'"),
        (CONFIG.replace("c.total_epochs", "c.total_epoch"), "'total_epoch'. Did you mean 'total_epochs'"),
        (CONFIG.replace("30.0", "'long'"), "line 7: TypeError"),
        (CONFIG.replace('(("pad', 'ConfigDict() #'), r"line 11: transforms are \(\(name, options\), ...\)"),
        (CONFIG.replace('(("pad', '{} #'), r"line 11: transforms are \(\(name, options\), ...\)"),
        ("from ml_collections import ConfigDict as C\ndef get_config(): return C()", "is missing; start from"),
        (CONFIG.replace('{"name": "resnet_small", "width": 8}', "{}"), "'model.name' is missing"),
        (CONFIG.replace("c.input.dataset", "del c.eval; c.input.dataset"), "'eval.*' is missing"),
    ],
)
def test_config_files_that_are_refused(file, text, said):
    with open(file, "w") as out:
        out.write(text)
    with pytest.raises(UserError, match=said):
        load(file)


def test_a_config_that_takes_no_argument(file):
    with open(file, "w") as out:
        out.write(CONFIG.replace('arg=""', "").replace("arg", "''"))
    assert load(file).seed == 0
    with pytest.raises(UserError, match="TypeError: get_config"):
        load(file + ":smoke")


def test_a_missing_file_names_the_nearest(file):
    with pytest.raises(UserError, match="Did you mean '.*mine.py'"):
        load(file.replace("mine", "mien"))
    with pytest.raises(UserError, match="See: cnn list configs"):
        load("no/such/place.py")


def parser() -> flags.Parser:
    made = flags.Parser("try", "A test's.")
    made.add_config()
    made.add_argument("--workdir", required=True)
    made.add_argument("--size", type=int, default=0)
    return made


def test_parsing_flags_and_overrides():
    args, overrides = parser().parse(
        ["--config", "a.py", "--workdir=w", "--config.optim.lr", "-1", "--config.seed=2=3", "--size", "4"]
    )
    assert (args.config, args.workdir, args.size) == ("a.py", "w", 4)
    assert overrides == {"optim.lr": "-1", "seed": "2=3"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--config=a.py"], "required: --workdir"),
        (["--workdir=w"], "required: --config"),
        (["--config=a.py", "--workdir"], "--workdir: expected one argument"),
        (["--config=a.py", "--workdir=w", "--size=big"], "--size: invalid int value: 'big'"),
        (["--config=a.py", "--workdir=w", "--wrokdir=x"], "unknown flag '--wrokdir'. Did you mean '--workdir'"),
        (["--config=a.py", "--workdir=w", "--zzz"], "unknown flag '--zzz'. Valid: -h, --help, --config, --workdir"),
        (["--config=a.py", "--workdir=w", "--config.seed"], "--config.seed needs a value: --config.seed=VALUE"),
        (["--config=a.py", "--workdir=w", "more"], "unexpected argument 'more'"),
    ],
)
def test_command_lines_that_are_refused(argv, said):
    with pytest.raises(UserError, match=said):
        parser().parse(argv)


def test_overrides_without_a_config_are_refused():
    made = flags.Parser("try", "")
    made.add_config(required=False)
    with pytest.raises(UserError, match="needs --config=FILE"):
        made.parse(["--config.seed=1"])
    made = flags.Parser("try", "")
    with pytest.raises(UserError, match="unknown flag '--config.seed'"):
        made.parse(["--config.seed=1"])

"""Config: units to steps, the smoke form, JSON, and values that are refused."""

import pytest
from ml_collections import ConfigDict

from cnn import config
from cnn.errors import UserError


def durations(**fields) -> ConfigDict:
    return ConfigDict({"every_epochs": None, "every_steps": None} | fields)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, 7),
        ({"every_steps": 3}, 3),
        ({"every_steps": 0}, 0),
        ({"every_epochs": 2.0}, 25),
        ({"every_epochs": 0.5}, 6),  # 6.25: the nearest step
        ({"every_epochs": 0.01}, 0),
    ],
)
def test_durations_in_steps(fields, wanted):
    assert config.steps(durations(**fields), "every", steps_per_epoch=12.5, unset=7) == wanted


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"every_steps": 1, "every_epochs": 1.0}, "one of every_epochs and every_steps, not both"),
        ({"every_steps": -1}, "every_steps must be a number of at least 0, got -1"),
        ({"every_epochs": -0.5}, "every_epochs must be a number of at least 0"),
    ],
)
def test_durations_that_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        config.steps(durations(**fields), "every", 12.5, 0)


def test_json_round_trip_keeps_types_and_tuples():
    c = config.default()
    c.profile_steps = (3, 5)
    c.optim.lr_multipliers = (("stem/.*", 0.1), ("head/.*", 2.0))
    c.total_epochs = 1.5
    c.model = ConfigDict({"name": "mlp", "options": {"sizes": (1, 2)}})
    again = config.from_json(config.to_json(c))
    assert again.to_dict() == c.to_dict()
    assert again.optim.lr_multipliers == (("stem/.*", 0.1), ("head/.*", 2.0))
    assert again.total_steps is None and again.is_locked
    with pytest.raises(AttributeError):
        again.optim.weigth_decay = 1.0


def test_smoke_shrinks_and_other_arguments_are_refused():
    c = config.default()
    c.total_epochs, c.eval.every_epochs, c.schedule.warmup_epochs = 90.0, 1.0, 5.0
    config.finish(c, "smoke")
    assert (c.total_epochs, c.total_steps) == (None, 4)
    assert c.input.fake and c.input.batch_size == 8 and not c.eval.baselines
    assert config.steps(c.schedule, "warmup", 100.0, 0) == 1
    assert config.finish(config.default(), "").total_steps is None
    with pytest.raises(UserError, match="no argument 'tiny'. Valid: smoke"):
        config.finish(config.default(), "tiny")


def valid() -> ConfigDict:
    c = config.default()
    c.model.name, c.input.dataset = "mlp", "digits"
    return c


def test_a_default_with_its_names_set_is_valid():
    config.check(valid())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("eval.mode", "maximum", "unknown eval.mode 'maximum'. Did you mean 'max'"),
        ("eval.use", "final", "unknown eval.use 'final'. Valid: best, last"),
        ("optim.lr", 0.0, "optim.lr is 0.0, it must be above 0"),
        ("optim.lr", float("nan"), "optim.lr is nan"),
        ("optim.ema_decay", 1.0, "at least 0 and below 1"),
        ("optim.clip_norm", -1.0, "must be above 0"),
        ("optim.accumulate_steps", 0, "at least 1"),
        ("schedule.final_fraction", 1.5, "at least 0 and at most 1"),
        ("max_minutes", -1.0, "at least 0"),
        ("seed", -1, "seed is -1"),
        ("input.mean", ("a",), "tuple of numbers"),
        ("optim.lr_multipliers", ("stem",), "pairs"),
        ("optim.lr_multipliers", (("stem", "x"),), "pairs"),
        ("profile_steps", (5,), "two steps"),
        ("profile_steps", (5, 3), "two steps"),
        ("model.name", "", "cnn list models"),
        ("input.dataset", "", "cnn list datasets"),
    ],
)
def test_values_that_are_refused(field, value, said):
    c = valid()
    *groups, name = field.split(".")
    group = c
    for part in groups:
        group = group[part]
    group[name] = value
    with pytest.raises(UserError, match=said):
        config.check(c)

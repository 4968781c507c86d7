"""Flags of `launch tpu`: what Google Cloud or `cnn train` would not take is one clear line, before anything costs."""

import pytest

from cnn.errors import UserError
from experiments.launch import hardware
from experiments.launch.__main__ import main
from tests.support.pods import FLAGS, ROOT, TRAIN

BAD = {
    "--name=": ("run 1", "Run1", "1run", "run1;id", "$(id)", "../run1", "run1-", "a" * 41, ""),
    "--zone=": ("us-central1", "us-central1-a;id", "us_central1_a", "$(id)"),
    "--project=": ("x", "My-Project", "my-project;id"),
    "--bucket=": ("gs://bucket", "Bucket", "bu cket", "b"),
    "--type=": ("v5litepod-17", "v5e-16", "v5litepod", "tpu7x-8"),
    "--slices=": ("0", "1000", "two"),
    "--hours=": ("0", "-1", "soon"),
    "--service-account=": ("me", "me@x y"),
    "--network=": ("a/b",),
    "--runtime=": ("v2 alpha",),
    "--commit=": ("no-such-commit", "--help"),
    "--prices=": ("no/such.csv",),
    "--max-restarts=": ("-1",),
    "--setup=": ("a\nb",),
}


@pytest.mark.parametrize("flag, value", [(flag, value) for flag, values in BAD.items() for value in values])
def test_a_wrong_value_is_one_clear_line(tmp_path, monkeypatch, capsys, flag, value):
    monkeypatch.chdir(ROOT)
    good = [word for word in ("--name=run1", *FLAGS, f"--root={tmp_path}") if not word.startswith(flag)]
    with pytest.raises(UserError) as error:
        main(["tpu", *good, f"{flag}{value}", "--dry-run", "--", *TRAIN])
    line = str(error.value)
    assert "\n" not in line and (value in line or flag.strip("-=") in line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "train, words",
    [
        ((), "say what to run after '--'"),
        (
            ("--config=configs/classification/digits_resnte.py",),
            "Did you mean 'configs/classification/digits_resnet.py'?",
        ),
        ((*TRAIN, "--config.optim.lrr=1"), "Did you mean 'lr'?"),
        ((*TRAIN, "--workdir=runs/x"), "the disks of these machines vanish with them"),
        ((*TRAIN, "--coordinator=host:1"), "unknown flag '--coordinator"),
        ((f"--config={__file__}",), "has no attribute 'get_config'"),
        ((f"--config={ROOT}/{TRAIN[0].partition('=')[2]}",), "is not in commit"),
    ],
)
def test_a_mistake_in_the_run_is_found_before_anything_costs(tmp_path, monkeypatch, train, words):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        main(["tpu", "--name=run1", *FLAGS, f"--root={tmp_path}", "--dry-run", "--", *train])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "name, kind, chips, hosts",
    [
        ("v5litepod-1", "v5e", 1, 1),
        ("v5litepod-8", "v5e", 8, 1),
        ("v5litepod-16", "v5e", 16, 4),
        ("v5litepod-256", "v5e", 256, 64),
        ("v4-8", "v4", 4, 1),
        ("v4-32", "v4", 16, 4),
        ("v5p-8", "v5p", 4, 1),
        ("v5p-128", "v5p", 64, 16),
        ("v6e-8", "v6e", 8, 1),
        ("v6e-64", "v6e", 64, 16),
    ],
)
def test_slices(name, kind, chips, hosts):
    assert hardware.of_type(name) == hardware.Slice(kind, chips, hosts)

"""Checkpoints: what is kept, what is chosen, and what happens to damaged ones."""

import gc
import json
import os
import re
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cnn import tree
from cnn.errors import UserError
from cnn.run import checkpoint
from cnn.run.checkpoint import Checkpoints, find, load_variables, read_meta
from cnn.state import TrainState

SIZE = 4096  # of the largest array: so many random floats that a data file is mostly those


# Orbax leaves coroutines behind when a file cannot be read; they end when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_coroutines():
    yield
    gc.collect()


def state_at(step, ema=True):
    draw = np.random.default_rng(step)
    params = {"head": {"kernel": jnp.asarray(draw.standard_normal((SIZE // 32, 32)), jnp.float32)}}
    stats = {"bn": {"mean": jnp.asarray(draw.standard_normal(5), jnp.float32)}}
    return TrainState(
        step=jnp.int32(step),
        bad_step=jnp.int32(-1),
        params=params,
        batch_stats=stats,
        opt_state=({"count": jnp.int32(step), "trace": params["head"]["kernel"] * 2},),
        # Arrays of their own: one buffer cannot be donated twice.
        ema=jax.tree.map(lambda x: x + 1, {"params": params, "batch_stats": stats}) if ema else {},
    )


def abstract(state=None, sharding=None):
    place = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state or state_at(0))


def meta_at(step, best=None, use="last"):
    config = {"eval": {"use": use}}
    return {"step": step, "position": 16 * step, "loop": {"best_step": best}, "config": config}


_WRITTEN = {}  # pristine copies: saving takes longer than copying


def write(directory, steps, scores=(), **options):
    """A run's checkpoints: `steps` in order, those in `scores` with a metric."""
    scores = dict(scores)
    key = repr((list(steps), scores, options))
    if key not in _WRITTEN:
        _WRITTEN[key] = tempfile.TemporaryDirectory()
        checkpoints, best = Checkpoints(_WRITTEN[key].name, **options), None
        for step in steps:
            best = step if step in scores else best
            checkpoints.save(state_at(step), meta_at(step, best), scores.get(step))
        checkpoints.close()
    shutil.copytree(_WRITTEN[key].name, directory, dirs_exist_ok=True)


def restored(directory, which="last", **options):
    checkpoints = Checkpoints(directory, **options)
    try:
        state, meta = checkpoints.restore(abstract(), which)
    finally:
        checkpoints.close()
    same(state, state_at(int(state.step)))
    assert meta["step"] == int(state.step)
    return int(state.step)


def same(found, wanted):
    found, wanted = tree.flatten(jax.device_get(found)), tree.flatten(jax.device_get(wanted))
    assert found.keys() == wanted.keys()
    assert not [name for name, x in wanted.items() if not np.array_equal(found[name], x)]


# Damage


def data_file(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(path, position=0.5):
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0x10
    path.write_bytes(bytes(data))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def change(folder, old, new):
    path = folder / "_CHECKPOINT_METADATA"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "flipped byte": lambda f: flip(data_file(f)),
    "flipped byte near the start": lambda f: flip(data_file(f), 0.05),
    "flipped byte near the end": lambda f: flip(data_file(f), 0.8),
    "truncated array file": lambda f: truncate(data_file(f)),
    "empty array file": lambda f: os.truncate(data_file(f), 0),
    "removed array file": lambda f: data_file(f).unlink(),
    "removed index": lambda f: (f / "state" / "manifest.ocdbt").unlink(),
    "removed tree": lambda f: (f / "state" / "_METADATA").unlink(),
    "broken tree": lambda f: truncate(f / "state" / "_METADATA"),
    "removed state": lambda f: shutil.rmtree(f / "state"),
    "broken metadata": lambda f: truncate(f / "_CHECKPOINT_METADATA"),
    "metadata that are no JSON": lambda f: (f / "_CHECKPOINT_METADATA").write_bytes(b"\xff\x00{"),
    "empty metadata": lambda f: os.truncate(f / "_CHECKPOINT_METADATA", 0),
    "metadata of nothing": lambda f: (f / "_CHECKPOINT_METADATA").write_text("{}"),
    "metadata that are a list": lambda f: (f / "_CHECKPOINT_METADATA").write_text("[]"),
    "changed metadata": lambda f: change(f, '"position": ', '"position": 1'),
    "metadata with an unknown key": lambda f: change(f, "commit_timestamp_nsecs", "commit_timestamp_nsecw"),
    "missing metadata": lambda f: (f / "_CHECKPOINT_METADATA").unlink(),
    "empty step folder": empty,
}
FEW = ("flipped byte", "removed array file", "removed tree", "broken metadata", "empty step folder")
FEW_AT_FIRST = [pytest.param(name, marks=() if name in FEW else pytest.mark.exhaustive) for name in DAMAGE]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_is_named_and_the_one_before_used(tmp_path, capfd, damage):
    folder = tmp_path / "checkpoints"
    write(folder, [2, 4, 6], {2: 0.5}, keep_last=3)
    DAMAGE[damage](folder / "6")
    checkpoints = Checkpoints(folder, keep_last=3)
    state, meta = checkpoints.restore(abstract())
    same(state, state_at(4))
    assert meta["position"] == 64
    warning = r"warning: checkpoint 6: .*; (trying the one before it|it is set aside as damaged-6)\n"
    assert re.search(warning, capfd.readouterr().err)
    checkpoints.set_aside_after(4)  # as a resumed run does, to write it again
    assert checkpoints.steps == [2, 4] and not (folder / "6").exists()
    checkpoints.save(state_at(6), meta_at(6))
    checkpoints.close()
    assert restored(folder) == 6
    assert "warning" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("damage", FEW_AT_FIRST)
def test_damaged_best_gives_way_to_the_next(tmp_path, capfd, damage):
    write(tmp_path, [2, 4, 6], {2: 0.5, 4: 0.7}, keep_last=3)
    DAMAGE[damage](tmp_path / "4")
    step = restored(tmp_path, "best", keep_last=3)
    error = capfd.readouterr().err
    # Where Orbax cannot read which checkpoint was the best, the best of the others is.
    assert step == 2 and ("warning: checkpoint 4: " in error or "metadata" in damage or "step" in damage)


@pytest.mark.slow
@pytest.mark.parametrize("damage", FEW_AT_FIRST)
def test_prediction_from_a_damaged_one_is_one_clear_line(tmp_path, damage):
    write(tmp_path / "checkpoints", [2, 4], {4: 0.7})
    DAMAGE[damage](tmp_path / "checkpoints" / "4")
    try:
        variables, _ = load_variables(find(str(tmp_path), 4))
    except UserError as error:
        assert re.search(r"checkpoint .*/4: .*; use another \(--checkpoint=STEP\)", str(error))
    else:  # not all arrays are needed, nor all files
        same(variables, state_at(4).ema)
        assert "metadata" not in damage


def test_all_damaged_is_one_clear_error(tmp_path, capfd):
    write(tmp_path, [2, 4, 6], keep_last=3)
    flip(data_file(tmp_path / "2"))
    data_file(tmp_path / "4").unlink()
    truncate(tmp_path / "6" / "_CHECKPOINT_METADATA")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="no sound .*checkpoint 6: .*; checkpoint 4: .*; checkpoint 2: .*Restore"):
        checkpoints.restore(abstract())
    checkpoints.close()
    assert capfd.readouterr().err.count("warning: checkpoint") == 3


def test_all_set_aside_is_the_same_error_every_time(tmp_path):
    write(tmp_path, [2])
    DAMAGE["metadata that are a list"](tmp_path / "2")
    for _ in range(2):
        checkpoints = Checkpoints(tmp_path)
        with pytest.raises(UserError, match="no sound checkpoint in .*: damaged-2: set aside. Restore"):
            checkpoints.restore(abstract())
        checkpoints.close()


def test_a_flipped_byte_names_the_tensor_or_the_file(tmp_path, capfd):
    write(tmp_path, [2, 4])
    flip(data_file(tmp_path / "4"))
    assert restored(tmp_path) == 2
    assert re.search("checksum of '.*kernel|trace' is wrong|it cannot be read", capfd.readouterr().err)


def test_leftovers_are_ignored_and_cleaned(tmp_path):
    write(tmp_path, [2, 4])
    shutil.copytree(tmp_path / "4", tmp_path / "6.orbax-checkpoint-tmp")
    (tmp_path / "8.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert find(str(tmp_path), "last").name == "4"
    assert restored(tmp_path) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "4", "notes"]


# What is kept and chosen

SCORES = {1: 0.1, 2: 0.8, 3: 0.3, 4: 0.9, 5: 0.8, 6: 0.2}


@pytest.mark.parametrize(
    ("last", "best", "mode", "kept", "chosen"),
    [
        (2, 1, "max", [4, 5, 6], 4),
        (1, 2, "max", [2, 4, 6], 4),  # of equals (2 and 5), the earlier one
        (3, 0, "max", [4, 5, 6], 4),
        (1, 1, "min", [1, 6], 1),
        (2, 3, "min", [1, 3, 5, 6], 1),
    ],
)
def test_best_and_last_ones_stay(tmp_path, last, best, mode, kept, chosen):
    options = {"keep_last": last, "keep_best": best, "mode": mode}
    write(tmp_path, SCORES, SCORES, **options)
    checkpoints = Checkpoints(tmp_path, **options)
    assert (checkpoints.steps, checkpoints.best) == (kept, chosen)
    checkpoints.close()
    assert restored(tmp_path, "best", **options) == chosen
    assert restored(tmp_path, "last", **options) == 6
    assert restored(tmp_path, kept[0], **options) == kept[0]


def test_without_scores_the_best_is_unknown(tmp_path):
    write(tmp_path, [2, 4])
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best is None
    with pytest.raises(UserError, match="no checkpoint 'best' .*there are: last, best, 2, 4|no checkpoint 'best'"):
        checkpoints.restore(abstract(), "best")
    with pytest.raises(UserError, match="no checkpoint '3' in .*; there are: .*2, 4"):
        checkpoints.restore(abstract(), 3)
    checkpoints.close()


def test_nothing_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.restore(abstract()) is None
    checkpoints.close()


def test_a_step_is_written_once(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(4), meta_at(4), 0.5)
    checkpoints.save(state_at(4).replace(batch_stats=state_at(5).batch_stats), meta_at(4))
    checkpoints.wait()
    assert (checkpoints.steps, checkpoints.best) == ([4], 4)
    checkpoints.close()
    assert restored(tmp_path) == 4


@pytest.mark.parametrize("form", ["workdir", "checkpoints", "step"])
def test_find(tmp_path, form):
    write(tmp_path / "checkpoints", [2, 4, 6], {2: 0.5, 4: 0.9}, keep_last=3)
    path = {"workdir": tmp_path, "checkpoints": tmp_path / "checkpoints", "step": tmp_path / "checkpoints" / "2"}[form]
    for which, step in (("best", 4), ("last", 6), (2, 2), ("6", 6)):
        assert find(str(path), which).name == ("2" if form == "step" else str(step))


@pytest.mark.parametrize("use", ["last", "best"])
def test_find_takes_what_the_run_itself_scored(tmp_path, use):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(2), meta_at(2, 2, use), 0.9)
    checkpoints.save(state_at(4), meta_at(4, 2, use))
    checkpoints.close()
    assert find(str(tmp_path)).name == {"last": "4", "best": "2"}[use]


def test_find_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a run's workdir"):
        find(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        find(str(tmp_path))
    write(tmp_path, [2])
    for which in (3, "newest"):
        with pytest.raises(UserError, match=f"no checkpoint '?{which}'? in .*last, best, "):
            find(str(tmp_path), which)


# What is in it


@pytest.mark.parametrize("ema", [True, False])
def test_variables_are_the_averages_where_there_are_any(tmp_path, ema):
    checkpoints, state = Checkpoints(tmp_path), state_at(2, ema)
    checkpoints.save(state, meta_at(2))
    checkpoints.close()
    variables, meta = load_variables(find(str(tmp_path)))
    same(variables, state.ema if ema else {"params": state.params, "batch_stats": state.batch_stats})
    assert meta["position"] == 32 and meta["versions"]["jax"] == jax.__version__


def test_variables_of_a_network_without_statistics(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), state_at(2, ema=False).replace(batch_stats={})
    checkpoints.save(state, meta_at(2))
    checkpoints.close()
    same(load_variables(find(str(tmp_path)))[0], {"params": state.params, "batch_stats": {}})


@pytest.mark.parametrize("count", [1, 8])
def test_saving_is_safe_against_donation(tmp_path, count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep_last=5)
    for step in range(1, 6):
        state = jax.device_put(state_at(step), NamedSharding(mesh, P()))
        jax.block_until_ready(state)
        checkpoints.save(state, meta_at(step))
        for _ in range(20):  # the buffers of what is being saved are written again and again
            state = overwrite(state)
        jax.block_until_ready(state)
    checkpoints.close()
    for step in range(1, 6):
        assert restored(tmp_path, step, keep_last=5) == step


def test_placement_on_restore_is_the_asked_one(tmp_path):
    write(tmp_path, [2])
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    places = jax.tree.map(lambda x: NamedSharding(mesh, P("data") if x.size > 100 else P()), state_at(0))
    wanted = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state_at(0), places
    )
    checkpoints = Checkpoints(tmp_path)
    state, _ = checkpoints.restore(wanted)
    checkpoints.save(state.replace(step=jnp.int32(3)), meta_at(3))  # sharded arrays can be saved again
    checkpoints.wait()
    again, _ = checkpoints.restore(abstract())
    checkpoints.close()
    assert jax.tree.map(lambda x: x.sharding, state) == places
    same(state, state_at(2))
    same(again, state_at(2).replace(step=jnp.int32(3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(batch_stats={}), "'batch_stats/bn/mean' is .*5.* and missing in the network"),
        (lambda s: s.replace(params={**s.params, "extra": jnp.ones(2)}), "'params/extra' is missing in the checkpoint"),
        (lambda s: s.replace(batch_stats={"bn": {"mean": jnp.ones(6)}}), "'batch_stats/bn/mean' is "),
        (lambda s: s.replace(step=jnp.float32(0)), "'step' is .*int32.*float32"),
    ],
    ids=["fewer", "more", "shape", "type"],
)
def test_another_network_is_refused_by_name(tmp_path, change, message):
    write(tmp_path, [2])
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=f"does not fit this config: {message}"):
        checkpoints.restore(abstract(change(state_at(0))))
    checkpoints.close()


def test_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 9)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(2), meta_at(2))
    checkpoints.close()
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 9, this version of cnn reads up to 2; upgrade cnn"):
        read_meta(find(str(tmp_path)))


def test_metadata_are_readable_without_this_library(tmp_path):
    write(tmp_path, [2])
    found = json.loads((tmp_path / "2" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert found["step"] == 2 and found["arrays"]["params/head/kernel"][:2] == [[SIZE // 32, 32], "float32"]

"""Reading compiled programs: one that libtpu printed for a v5e (attributes cut), and one of this machine."""

from pathlib import Path

import pytest

from cnn import flags
from cnn.native import onednn
from cnn.plan import make_plan
from cnn.preflight import hlo, program

ROOT = Path(__file__).resolve().parents[2]
DIGITS = f"{ROOT}/configs/classification/digits_resnet.py:smoke"
# digits_resnet:smoke with one block of width 8, batch 32 on v5e:2x2, libtpu 0.0.52, O0; what the compiler said of it:
STEP = (Path(__file__).parent / "train_step.hlo").read_text()
PEAK, ARGUMENTS, TEMPORARIES = 1_001_984, 274_432, 1_884_160

ARRAYS = (  # text, shape, bytes, padded
    ("f32[64]{0:T(128)}", (64,), 256, 512),
    ("bf16[128,56,56,64]{0,3,2,1:T(8,128)(2,1)}", (128, 56, 56, 64), 51_380_224, 51_380_224),
    ("bf16[16,56,56,64]{3,0,2,1:T(8,128)(2,1)}", (16, 56, 56, 64), 6_422_528, 12_845_056),
    ("f32[3,3,5,7]{3,2,1,0:T(8,128)}", (3, 3, 5, 7), 1260, 36_864),
    ("pred[]{:T(512)}", (), 1, 1),
    ("f32[2,3]{1,0}", (2, 3), 24, 24),
)


@pytest.mark.parametrize(("text", "shape", "size", "padded"), ARRAYS)
def test_arrays_take_whole_tiles(text, shape, size, padded):
    (array,) = hlo.arrays(text)
    assert (array.shape, array.bytes, array.padded) == (shape, size, padded)


def test_tuples_and_memory_on_the_chip():
    slow, fast = hlo.arrays("(f32[8,128]{1,0:T(8,128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)})")
    assert (slow.fast, fast.fast, fast.bytes) == (False, True, 2048)


def test_what_is_alive_at_the_peak_is_what_the_compiler_says():
    found = program.read(STEP, batch=8)
    assert found["alive"] + ARGUMENTS == pytest.approx(PEAK, rel=0.02)
    assert 0 < found["activations"] < found["alive"] < TEMPORARIES
    assert found["largest"][0][:2] == ("stem/conv1", [8, 8, 8, 8])


def test_a_chain_keeps_what_the_backward_pass_reads():
    text = """
ENTRY %main (p: f32[256]) -> f32[256] {
  %p = f32[256]{0:T(256)} parameter(0)
  %a = f32[256]{0:T(256)} fusion(%p), metadata={op_name="jit(f)/jvp(Net)/one/mul"}
  %b = f32[256]{0:T(256)} fusion(%a), metadata={op_name="jit(f)/jvp(Net)/two/mul"}
  %c = f32[256]{0:T(256)} fusion(%b), metadata={op_name="jit(f)/transpose(jvp(Net))/two/mul"}
  %d = (f32[256]{0:T(256)}, f32[256]{0:T(256)}) fusion(%c, %a), metadata={op_name="jit(f)/transpose(jvp(Net))/one/mul"}
  %e = f32[256]{0:T(256)} get-tuple-element(%d), index=1
  ROOT %g = f32[256]{0:T(256)} fusion(%e)
}
"""
    alive = {buffer.maker.name for buffer in hlo.at_peak(hlo.entry(text))}
    assert alive == {"a", "c", "d"}  # b is done with, and one half of d is never read
    assert {one.layer for one in hlo.entry(text)} == {"", "one", "two"}


COLLECTIVES = """
HloModule m
ENTRY %main (p: f32[8]) -> f32[8] {
  %r = (f32[64]{0:T(128)}, f32[64]{0:T(128)}) all-reduce(%a, %b), channel_id=2, replica_groups={{0,1}}
  %s = f32[1048576]{0:T(1024)} all-reduce-start(%c), channel_id=3
  %t = f32[1048576]{0:T(1024)} all-reduce-done(%s)
  %u = (f32[65536]{0}, f32[65536]{0}) all-gather-start(%d), dimensions={0}
}
"""


def test_collectives_are_counted_with_their_bytes():
    assert hlo.collectives(COLLECTIVES) == [
        hlo.Collective("all-gather", False, 1, 262_144),
        hlo.Collective("all-reduce", False, 1, 4_194_304),
        hlo.Collective("all-reduce", True, 1, 512),
    ]
    assert [(one.op, one.small) for one in hlo.collectives(STEP)] == [("all-reduce", True)]


def test_tiles_name_layers_and_causes():
    rows = program.tiles(hlo.entry(STEP), batch=8)
    assert rows[0]["waste"] > 0 and rows[0]["axis"] == "channels" and rows[0]["size"] == 8
    assert {"stem/conv1", "stage1/block1/conv1"} <= {row["layer"] for row in rows}
    assert all(row["layer"] for row in rows)
    made = 'ENTRY %m (p: f32[]) -> f32[] {{\n  %a = {} fusion(%p), metadata={{op_name="jit(f)/jvp(Net)/one/add"}}\n}}'
    (row,) = program.tiles(hlo.entry("\n" + made.format("bf16[12,9,9,128]{0,3,2,1:T(8,128)}")), batch=12)
    assert (row["layer"], row["axis"], row["size"]) == ("one", "batch", 12)
    assert row["waste"] == row["bytes"] * (128 - 12) // 12


def test_facts_of_a_plan_and_the_steps_of_this_machine():
    config = flags.load_config(DIGITS, {"mesh.devices": "2"})
    with onednn.off():  # XLA counts no operations of other libraries' calls
        found = program.compile_steps(config, ["train", "eval"])
    assert (found["devices"], found["batch"], found["steps"], found["stem"]) == (2, 8, 4, ([3, 3], 1))
    plan = make_plan(config)
    assert found["memory"]["parameters"] == 4 * found["parameters"]
    assert found["memory"]["optimizer"] >= found["memory"]["parameters"]  # momentum
    assert found["batch_bytes"] == (8 * 8 * 1 + 4 + 1) * 8 // 2  # uint8, int32 label, valid; half of it each
    train, evaluation = found["train"], found["eval"]
    state = sum(found["memory"].values())
    assert train["arguments"] == pytest.approx(state + found["batch_bytes"], rel=0.05)
    assert train["peak"] > train["arguments"] and train["bytes"] > train["arguments"]
    assert 0.3 < train["flops"] * 2 / found["useful_flops"] < 3
    assert evaluation["flops"] < train["flops"] and plan.total == 4


def test_fsdp_splits_the_state():
    whole, split = (
        program.facts(make_plan(flags.load_config(DIGITS, {"mesh.devices": "2", "mesh.fsdp": rule})))["memory"]
        for rule in ("", ".*kernel")
    )
    assert whole["parameters"] / 2 <= split["parameters"] < 0.6 * whole["parameters"]


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("", ""),
        ("Traceback\n  File\nValueError: no\n", "ValueError: no"),
        ("x\nRESOURCE_EXHAUSTED: Ran out\nmore\n", "RESOURCE_EXHAUSTED: Ran out"),
        ("Segmentation fault\n", "Segmentation fault"),
    ],
)
def test_the_line_that_names_a_cause(stderr, line):
    from cnn.preflight import libtpu

    assert libtpu.said(stderr) == line

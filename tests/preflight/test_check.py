"""What is made of a compiled program: with a compiler that answers as libtpu did for ResNet-50 on v5e:2x2."""

import copy

import pytest

from cnn import config as configs
from cnn.errors import UserError
from cnn.preflight import check, hardware, sweep, text
from cnn.preflight.loader import Loader

GIB = hardware.GIB
V5E = hardware.topology("v5e:2x2")
FREE_LOADER = Loader(rate=20_000.0, busy=2.0, cores=8, size=1_281_167)
# Of `python -m cnn.preflight.program` with batch 1024, libtpu 0.0.52; padding shortened.
PROGRAM = {
    "devices": 4,
    "parts": 4,
    "batch": 1024,
    "model": "resnet50",
    "parameters": 25_557_032,
    "memory": {"parameters": 102_228_128, "optimizer": 102_228_132, "statistics": 212_480},
    "stem": [[7, 7], 3],
    "useful_flops": 6 * 4.089e9 * 1024,
    "steps": 112_000,
    "evaluations": 18,
    "eval_steps": 13,
    "examples": 1_268_355,
    "batch_bytes": 38_535_424,
    "train": {
        "compile_seconds": 38.0,
        "peak": 9_360_000_000,
        "arguments": 243_204_164,
        "temporaries": 9_300_000_000,
        "flops": 6.177e12,
        "bytes": 67.5e9,
        "alive": 9_120_000_000,
        "activations": 9_040_000_000,
        "largest": [["stem/conv1", [256, 112, 112, 64], 411_041_792]],
        "padding": [{"layer": "stem/conv1", "axis": "channels", "size": 64, "bytes": 10**9, "waste": 10**9}],
        "collectives": [["all-reduce", False, 2, 55_100_000], ["all-reduce", True, 97, 409_000]],
    },
    "eval": {"compile_seconds": 9.0, "peak": 810_000_000, "bytes": 20e9, "flops": 2e12},
}
OOM = "RESOURCE_EXHAUSTED: ... required for HLO temporaries ({:.2f}G) exceeds available HBM (15.75G)."


def config(batch=1024, **fields):
    c = configs.default()
    c.total_epochs, c.input.batch_size, c.model.name = 90.0, batch, "resnet50"
    for name, value in fields.items():
        c.input[name] = value
    return c


def compiler(each=33.9e6, calls=None):
    """Stands for libtpu: a device's memory is 0.7 GB and `each` bytes per example, a fifth of that with remat."""

    def compiled(config, topology, steps):
        found, parts = copy.deepcopy(PROGRAM), PROGRAM["devices"]
        batch = found["batch"] = config.input.batch_size
        need = 0.7e9 + each * (0.2 if config.model.get("remat") else 1) * batch / parts
        found["train"]["peak"] = round(need)
        found["useful_flops"] *= batch / PROGRAM["batch"]
        if calls is not None:
            calls.append((batch, bool(config.model.get("remat")), config.mesh.fsdp))
        if need > 15.75 * GIB:
            found["train"] = {"error": OOM.format(need / GIB)}
        return {name: value for name, value in found.items() if name not in ("train", "eval") or name in steps}

    return compiled


def test_a_batch_that_fits():
    calls = []
    prices = {"v5e": {"on_demand": 1.2, "spot": 0.5}}
    found = check.on_topology(config(), V5E, loader=FREE_LOADER, prices=prices, compiler=compiler(calls=calls))
    assert found["verdict"] == {"go": True, "reasons": [], "warnings": []}
    memory = found["memory"]
    assert memory["fits"] and sum(memory["parts"].values()) == pytest.approx(memory["peak"], rel=1e-6)
    step = found["step"]
    assert step["roofline_seconds"] == pytest.approx(67.5e9 / 819e9) and step["wall"] == "memory bandwidth"
    assert step["examples_per_second"] == pytest.approx(1024 / step["seconds"])
    loader = found["loader"]
    assert loader["cores_needed"] == pytest.approx(loader["need"] / 10_000)
    run = found["run"]
    assert run["hours"] == pytest.approx(112_000 * step["seconds"] / 3600 + run["eval_hours"])
    assert run["eval_hours"] == pytest.approx(18 * 13 * 20e9 / 819e9 / 0.62 / 3600)
    assert run["dollars"] == {"on_demand": pytest.approx(4.8 * run["hours"]), "spot": pytest.approx(2 * run["hours"])}
    largest = {name: one["batch"] for name, one in found["largest"].items()}
    assert largest["as it is"] == 1536 and largest["remat"] == 8192 and largest["fsdp"] == 1536
    assert len(calls) <= 8
    lines = "\n".join(text.report(found))
    for part in ("fits: 8.73 GiB of 15.8", "wall: memory bandwidth", "estimate", "8192 with model.remat", "$"):
        assert part in lines


def test_a_batch_that_is_too_large_is_refused_with_the_largest_that_fits():
    found = check.on_topology(config(4096), V5E, compiler=compiler())
    assert not found["memory"]["fits"] and not found["verdict"]["go"] and "step" not in found
    (reason,) = found["verdict"]["reasons"]
    assert "batch 4096 does not fit v5e:2x2 by 17" in reason
    assert "the largest that does is 1536 (--config.input.batch_size=1536)" in reason
    lines = "\n".join(text.report(found))
    assert "DOES NOT FIT" in lines and "too much" in lines and "verdict        NO" in lines


def test_quick_refuses_with_the_largest_too():
    found = check.on_topology(config(4096), V5E, search=False, compiler=compiler())
    assert found["largest"] == {"as it is": {"batch": 1536, "peak": round(0.7e9 + 33.9e6 * 384)}}


def test_no_batch_fits():
    found = check.on_topology(config(), V5E, compiler=compiler(each=1e12))
    assert found["verdict"]["reasons"][0].endswith("none does")


def test_other_errors_of_the_compiler_are_told():
    def broken(config, topology, steps):
        return compiler()(config, topology, steps) | {"train": {"error": "INTERNAL: no"}}

    with pytest.raises(UserError, match="does not compile: INTERNAL: no"):
        check.on_topology(config(), V5E, compiler=broken)


def test_a_network_without_remat_says_so():
    def strict(config, topology, steps):
        if config.model.get("remat"):
            raise UserError("model 'mlp' has no option 'remat'")
        return compiler()(config, topology, steps)

    found = check.on_topology(config(), V5E, compiler=strict)
    assert "no option 'remat'" in found["largest"]["remat"]["error"] and found["largest"]["fsdp"]["batch"]
    assert "not possible, model 'mlp'" in "\n".join(text.report(found))


LOADERS = (  # loader, part of the warning
    (Loader(500.0, 1.0, 2, 1000), "starve the chips: 500 examples/s here"),
    (Loader(0.0, 0.0, 2, 0, "not prepared"), "not measured: not prepared"),
    (FREE_LOADER, ""),
)


@pytest.mark.parametrize(("loader", "warning"), LOADERS)
def test_warnings_about_the_loader(loader, warning):
    found = check.on_topology(config(), V5E, loader=loader, search=False, compiler=compiler())
    said = " ".join(found["verdict"]["warnings"])
    assert warning in said and bool(warning) == bool(said) and found["verdict"]["go"]
    assert "".join(text.report(found)).count("loader") >= 1


def test_made_up_examples_tell_no_hours_unless_their_number_is_given():
    fake = config(fake=True)
    found = check.on_topology(fake, V5E, search=False, compiler=compiler())
    assert found["run"]["hours"] is None and "--examples" in "\n".join(text.report(found))
    found = check.on_topology(fake, V5E, search=False, examples=1_281_167, compiler=compiler())
    assert found["run"]["steps"] == round(90 * 1_281_167 / 1024) and found["run"]["eval_hours"] == 0


def test_synchronised_statistics_on_many_chips_are_warned_of():
    found = check.on_topology(config(), V5E, search=False, compiler=compiler())
    found["step"] |= {"statistics_seconds": 0.2, "seconds": 1.0}
    assert "bn=group:K" in " ".join(check.verdict(found)["warnings"])


def test_two_devices_per_chip_share_its_work():
    step = check.on_topology(config(), hardware.topology("v3:2x2"), search=False, compiler=compiler())["step"]
    assert step["memory_seconds"] == pytest.approx(2 * 67.5e9 / 900e9)


def test_a_sweep_has_a_row_per_topology_and_a_forecast_per_kind():
    def some(config, topology, steps):
        if topology.kind == "v2":
            raise UserError("no such network there")
        return compiler()(config, topology, steps)

    where = [hardware.topology(name) for name in ("v2:2x2", "v5e:2x2", "v6e:2x2")]
    found = sweep.sweep(config(), where, compiler=some)
    assert [one.get("error", "") for one in found["topologies"]] == ["no such network there", "", ""]
    rows = found["scaling"]["v5e"]
    assert [row["chips"] for row in rows] == [4, 16, 64, 256, 1024, 4096] and rows[-1]["batch"] == 256 * 4096
    assert rows[0]["seconds"] == pytest.approx(found["topologies"][1]["step"]["seconds"])
    assert len(found["published"]) >= 6
    lines = "\n".join(sweep.report(found))
    for part in ("v2:2x2", "| 4,096", "efficiency", "tpu-v3-8192-JAX", "MLPerf", "Estimates"):
        assert part in lines
    assert [str(one) for one in sweep.default()][:3] == ["v2:2x2", "v3:2x2", "v4:2x2x1"]

"""The formula, on published runs and on paper; topologies; the search for the largest batch; advice; prices."""

import pytest

from cnn.errors import UserError
from cnn.preflight import advice, fit, forecast, hardware, prices


@pytest.mark.parametrize(("point", "value", "error"), forecast.checked(), ids=lambda one: getattr(one, "source", ""))
def test_within_a_quarter_of_published_runs(point, value, error):
    assert value > 0 and abs(error) < 0.25


def test_there_are_six_points():
    assert len(forecast.POINTS) >= 6 and {point.kind for point in forecast.POINTS} == {"v3", "v4"}


def test_a_step_by_hand():
    work = forecast.Work(examples=32, flops=197e9, bytes=1.638e9, reduced=100e6, reductions=2, synced=10)
    one = forecast.step(work, hardware.topology("v5e:4x4"), loader=1000.0)
    assert one.compute == pytest.approx(1e-3) and one.memory == pytest.approx(2e-3) == one.roofline
    assert one.chip == pytest.approx(2e-3 / 0.62)
    assert one.gradients == pytest.approx(2 * 15 / 16 * 100e6 / 200e9 + 2 * 12e-6)
    assert one.statistics == pytest.approx(10 * 12e-6)
    assert one.input == pytest.approx(32 * 16 / 4 / 1000) == one.seconds and one.wall == "input"
    assert forecast.step(work, hardware.topology("v5e:1x1")).gradients == 0.0


@pytest.mark.parametrize(
    ("work", "wall"),
    [
        (forecast.Work(1, 197e12, 1.0), "compute"),
        (forecast.Work(1, 1.0, 819e9), "memory bandwidth"),
        (forecast.Work(1, 1e9, 1e6, reduced=1e9), "communication"),
    ],
)
def test_walls(work, wall):
    assert forecast.step(work, hardware.topology("v5e:2x2")).wall == wall


def test_more_chips_are_never_more_efficient():
    work = forecast.Work(128, 3e12, 34e9, 100e6, 1, 106)
    for kind in hardware.CHIPS:
        rows = forecast.scaling(work, kind)
        assert [where.chips for where, *_ in rows] == [4, 16, 64, 256, 1024, 4096]
        efficiency = [share for *_, share in rows]
        assert efficiency == sorted(efficiency, reverse=True) and 0.3 < efficiency[-1] < efficiency[0] < 1


@pytest.mark.parametrize(
    ("text", "chips", "devices", "hosts"),
    [
        ("v5e:4x4", 16, 16, 4),
        ("v4:2x2x1", 4, 4, 1),
        ("v3:2x2", 4, 8, 1),
        ("tpu7x:2x2x2", 8, 16, 2),
        ("v6e:1x1", 1, 1, 1),
    ],
)
def test_topologies(text, chips, devices, hosts):
    found = hardware.topology(text)
    assert (str(found), found.chips, found.devices, found.hosts) == (text, chips, devices, hosts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5litepod-4", "unknown kind of TPU"),
        ("v5:2x2", "Did you mean 'v5"),
        ("v5e:2x2x1", "a v5e has 2 axes; write for instance v5e:4x4"),
        ("v4:2x2", "a v4 has 3 axes"),
        ("v5e:0x2", "2 axes"),
        ("v5e:", "2 axes"),
    ],
)
def test_mistakes_in_topologies(text, message):
    with pytest.raises(UserError, match=message):
        hardware.topology(text)


def test_cubic_topologies():
    assert [str(hardware.of_chips("v5e", n)) for n in (1, 4, 8, 32)] == ["v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x8"]
    assert [str(hardware.of_chips("v4", n)) for n in (4, 8, 64)] == ["v4:2x2x1", "v4:2x2x2", "v4:4x4x4"]


OOM = "Ran out of memory on HBM, the total memory required for HLO temporaries (16.76G) exceeds available HBM (15.75G)."


@pytest.mark.parametrize(("error", "bytes_"), [(OOM, round(16.76 * 2**30)), ("INTERNAL: no", None)])
def test_the_compilers_refusal_says_how_much(error, bytes_):
    assert fit.needed(error) == bytes_


@pytest.mark.parametrize(
    ("held", "each", "start", "limit", "expected"),
    [
        (100, 10, 8, 1000, 64),  # 90 fit: 64 is the nice size below
        (100, 10, 512, 1000, 64),  # the first is refused
        (0, 1, 1, 100, 96),
        (100, 1000, 8, 1000, 0),  # nothing fits
        (500, 3, 64, 1000, 128),
    ],
)
def test_the_largest_batch_is_found_with_few_compilations(held, each, start, limit, expected):
    made = []

    def compiled(size):
        made.append(size)
        return held + each * size

    found = fit.largest(compiled, {start: held + each * start}, limit, held)
    assert (found[0] if found else 0) == expected and len(made) <= 2
    assert not found or found[1] <= limit


def test_a_refusal_without_a_number_lowers_the_guess():
    def compiled(size):
        return None if size > 20 else 10 * size

    assert fit.largest(compiled, {8: 80}, 1000, 0, tries=4) == (8, 80)


def test_padding_is_summed_and_explained():
    rows = [
        {"layer": "stem", "axis": "channels", "size": 64, "bytes": 100, "waste": 100},
        {"layer": "stem", "axis": "", "size": 0, "bytes": 800, "waste": 0},
        {"layer": "head", "axis": "batch", "size": 12, "bytes": 10, "waste": 90},
        {"layer": "head", "axis": "space", "size": 7, "bytes": 10, "waste": 1},
    ]
    found = advice.padding(rows)
    assert (found["bytes"], found["waste"]) == (920, 191)
    assert found["layers"][0] == {"layer": "stem", "bytes": 900, "waste": 100}
    first, second = found["advice"]
    assert "9% " in first and "64 channels: widths of 128" in first
    assert "batch of 12 per device: take 128, or 8" in second
    assert advice.padding([]) == {"bytes": 0, "waste": 0, "layers": [], "advice": []}


@pytest.mark.parametrize(
    ("window", "channels", "batch", "said"),
    [
        ((7, 7), 3, 8, "2x2 pixels to 12 channels"),
        ((3, 3, 3), 1, 1, "2x2x2 pixels to 8"),
        ((7, 7), 3, 64, ""),
        ((1, 1), 3, 8, ""),
    ],
)
def test_the_stem(window, channels, batch, said):
    word = advice.stem(window, channels, batch)
    assert said in word and bool(word) == bool(said)


def test_prices(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("chip,on_demand,spot\nv5e,1.2,0.5\nv6e, 2.7 ,\nv4,-1,many\n")
    assert prices.read(str(file)) == {"v5e": {"on_demand": 1.2, "spot": 0.5}, "v6e": {"on_demand": 2.7}, "v4": {}}
    assert prices.per_chip_hour(str(file), "v5e", spot=True) == 0.5
    with pytest.raises(UserError, match="no price of v6e in column 'spot'"):
        prices.per_chip_hour(str(file), "v6e", spot=True)
    with pytest.raises(UserError, match="No such file"):
        prices.read(str(tmp_path / "none.csv"))

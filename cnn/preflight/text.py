"""The report of `cnn preflight` as lines for people."""

from collections.abc import Iterator
from typing import Any

from cnn.preflight import forecast
from cnn.preflight.hardware import GIB

VARIANTS = {"as it is": "as it is", "remat": "with model.remat=True", "fsdp": "with mesh.fsdp='.*kernel'"}


def gib(size: float | int | None) -> str:
    """Bytes as GiB, or as MiB where they are few; three digits."""
    if size is None:
        return "?"
    return f"{size / GIB:.3g} GiB" if size >= GIB / 10 else f"{size / 2**20:.3g} MiB"


def line(name: str, *parts: str) -> str:
    """'  name           part, part'."""
    return f"  {name:<15}{', '.join(part for part in parts if part)}"


def report(found: dict[str, Any]) -> Iterator[str]:
    """The lines about one topology."""
    yield (
        f"{found['model']}, {found['parameters']:,} parameters, batch {found['batch']} on {found['topology']}: "
        f"{found['chips']} chips, {found['devices']} devices with {found['batch_per_device']:g} examples each, "
        f"{found['hosts']} host(s). Every number is an estimate"
    )
    yield from _memory(found)
    yield from _largest(found.get("largest", {}))
    if "step" in found:
        yield from _step(found["step"])
        for op, small, count, size in found["collectives"]:
            yield line("collectives", f"{count} {op} of {size / 1e6:.3g} MB in all{', each small' if small else ''}")
        yield from _padding(found["padding"])
    if "loader" in found:
        yield from _loader(found["loader"])
    if "run" in found:
        yield from _run(found["run"])
    verdict = found["verdict"]
    for warning in verdict["warnings"]:
        yield line("warning", warning)
    yield line("verdict", "GO" if verdict["go"] else f"NO: {'; '.join(verdict['reasons'])}")


def _memory(found: dict[str, Any]) -> Iterator[str]:
    memory, evaluation = found["memory"], found["eval"]
    peak, limit = memory["peak"], memory["limit"]
    if memory["fits"]:
        yield line("memory", f"fits: {gib(peak)} of {gib(limit)} per device", f"{gib(limit - peak)} free")
    else:
        over = f"{gib(peak - limit)} too much" if peak else "by how much the compiler does not say"
        yield line("memory", f"DOES NOT FIT: {gib(peak)} of {gib(limit)} per device", over)
    yield line("  of which", *(f"{name} {gib(size)}" for name, size in memory["parts"].items()))
    for layer, shape, size in memory.get("largest", ())[:3]:
        yield line("  largest", f"{layer or 'outside'} {shape} {gib(size)}")
    fits = "" if evaluation["fits"] else "DOES NOT FIT: "
    yield line("evaluation", f"{fits}{gib(evaluation['peak'])}")


def _largest(largest: dict[str, Any]) -> Iterator[str]:
    for name, one in largest.items():
        if "error" in one:
            yield line("largest batch", f"{VARIANTS[name]}: not possible, {one['error']}")
        else:
            yield line("largest batch", f"{one['batch']} {VARIANTS[name]} ({gib(one['peak'])})")


def _step(step: dict[str, Any]) -> Iterator[str]:
    yield line(
        "one step",
        f"{step['useful_flops'] / 1e9:,.0f} GFLOP per device (the compiler counts {step['compiler_flops'] / 1e9:,.0f})",
        f"{step['bytes'] / 1e9:.3g} GB of memory traffic",
    )
    yield line(
        "roofline",
        f"{1e3 * step['roofline_seconds']:.3g} ms at the least",
        f"arithmetic {1e3 * step['compute_seconds']:.3g}, memory {1e3 * step['memory_seconds']:.3g}",
        f"wall: {step['wall']}",
    )
    yield line(
        "forecast",
        f"{1e3 * step['seconds']:.3g} ms at {forecast.REACHED:.0%} of the roofline",
        f"of which gradients {1e3 * step['gradient_seconds']:.2g}, statistics {1e3 * step['statistics_seconds']:.2g}",
        f"{step['examples_per_second']:,.0f} examples/s",
    )


def _padding(padding: dict[str, Any]) -> Iterator[str]:
    share = padding["waste"] / max(padding["bytes"] + padding["waste"], 1)
    yield line("tiles", f"{share:.1%} of what the layers write is padding ({padding['waste'] / 1e6:.3g} MB a step)")
    for one in padding["layers"][:3] if share > 0.01 else ():
        yield line("  padding", f"{one['layer']}: {one['waste'] / 1e6:.3g} MB beside {one['bytes'] / 1e6:.3g}")
    for word in padding["advice"]:
        yield line("  advice", word)


def _loader(loader: dict[str, Any]) -> Iterator[str]:
    need = f"{loader['need']:,.0f} examples/s needed per host"
    if loader["missing"]:
        yield line("loader", need, "not measured")
        return
    yield line(
        "loader",
        need,
        f"{loader['rate']:,.0f} measured here ({loader['busy']:.1f} of {loader['cores']} cores busy)",
        f"that takes {loader['cores_needed']:.1f} such cores",
    )


def _run(run: dict[str, Any]) -> Iterator[str]:
    if run["steps"] is None:
        yield line("whole run", "not known without the data: give --examples=N (of the training split)")
        return
    dollars = [f"${price:,.2f} {column}" for column, price in run.get("dollars", {}).items()]
    yield line(
        "whole run",
        f"{run['steps']:,} steps",
        f"{run['hours']:.3g} h (evaluation {run['eval_hours']:.2g} h)",
        f"{run['chip_hours']:.3g} chip hours",
        *(dollars or ["dollars with --prices=FILE"]),
    )


def measured(found: dict[str, Any]) -> Iterator[str]:
    """The lines about this machine's own devices."""
    one = found["measured"]
    yield (
        f"{found['model']}, {found['parameters']:,} parameters, batch {found['batch']} on {one['device']}: "
        "forecast beside a few real steps"
    )
    memory, seconds, peak = one["memory"], one["seconds"], one["peak"]
    if memory:
        yield line(
            "memory",
            f"forecast {gib(memory['forecast'])}",
            f"measured {gib(memory['measured'])} ({memory['error']:+.0%})",
        )
    else:
        forecast_only = f"forecast {gib(found['train']['peak'])} per device"
        yield line("memory", forecast_only, "this machine does not tell what is used")
    parts = found["memory"] | {"batch": found["batch_bytes"], "activations": found["train"]["activations"]}
    yield line("  of which", *(f"{name} {gib(size)}" for name, size in parts.items()))
    yield line(
        "one step",
        f"forecast {1e3 * seconds['forecast']:.3g} ms",
        f"measured {1e3 * seconds['measured']:.3g} ms ({seconds['error']:+.0%})",
        f"{found['batch'] / seconds['measured']:,.0f} examples/s",
    )
    yield line(
        "roofline",
        f"arithmetic {1e3 * one['roofline']['compute']:.3g} ms, memory {1e3 * one['roofline']['memory']:.3g} ms",
        f"of {peak['flops'] / 1e9:,.0f} GFLOP/s and {peak['bandwidth'] / 1e9:.3g} GB/s, measured here",
    )

"""One config on one topology: compiled, held against the chip, priced. The result is plain data; `text` shows it."""

import json
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from cnn import config as configs
from cnn.errors import UserError
from cnn.preflight import advice, fit, forecast, libtpu
from cnn.preflight.hardware import Topology
from cnn.preflight.loader import Loader
from cnn.preflight.text import gib

WAYS = ("as it is", "remat", "fsdp")  # to train
FSDP = ".*kernel"  # the rule of the variant
STEPS = 1000  # of a run that is only compiled
Compiler = Callable[[ConfigDict, Topology, tuple[str, ...]], dict[str, Any]]


def compiled(config: ConfigDict, topology: Topology, steps: tuple[str, ...]) -> dict[str, Any]:
    """`cnn.preflight.program.compile_steps` in a process of its own.

    Raises:
      UserError: what is wrong with the config, or how the compiler ended.
    """
    if config.input.fake and config.total_steps is None:  # an epoch of made-up examples says nothing
        config = changed(config, total_epochs=None, total_steps=STEPS)
    how = {"config": json.loads(configs.to_json(config)), "topology": str(topology), "steps": steps}
    found = libtpu.in_a_process(("-m", "cnn.preflight.program", json.dumps(how)))
    if "user_error" in found:
        raise UserError(found["user_error"])
    if "error" in found:
        raise UserError(f"the compiler for {topology} ended: {found['error']}")
    return found


def changed(config: ConfigDict, **fields: Any) -> ConfigDict:
    """A copy with other values of some fields; '__' is the dot of a name."""
    copy = configs.from_json(configs.to_json(config))
    for name, value in fields.items():
        group, _, leaf = name.rpartition("__")
        node = copy[group] if group else copy
        with node.unlocked():
            node[leaf] = value
    return copy


def on_topology(
    config: ConfigDict,
    topology: Topology,
    *,
    loader: Loader | None = None,
    examples: int = 0,
    prices: dict[str, dict[str, float]] | None = None,
    search: bool = True,
    compiler: Compiler = compiled,
) -> dict[str, Any]:
    """Everything about one config on one topology; see the keys below.

    Args:
      loader: this host's, for the input wall.
      examples: of the training split, where the data are not here; 0: not known.
      prices: of `cnn.preflight.prices.read`.
      search: for the largest batch too, which takes a few more compilations; one that does not fit is always followed
        by the largest that does.
      compiler: `compiled`, or what stands for it.

    Returns:
      {topology, chips, devices, hosts, batch, ...; memory; eval; step; collectives; padding; largest; loader; run;
      verdict}; all numbers are estimates, those of memory of one device.

    Raises:
      UserError: the config is wrong, or the compiler fails for another reason than memory.
    """
    program = compiler(config, topology, ("train", "eval"))
    train, evaluation = program["train"], program["eval"]
    limit = topology.chip.hbm / topology.chip.devices
    batch = config.input.batch_size
    found: dict[str, Any] = {
        "estimate": True,
        "model": program["model"],
        "parameters": program["parameters"],
        "topology": str(topology),
        "chips": topology.chips,
        "devices": program["devices"],
        "hosts": topology.hosts,
        "batch": batch,
        "batch_per_device": batch / program["devices"],
        "memory": memory(program, limit),
        "eval": {"peak": _need(evaluation), "limit": limit, "fits": "error" not in evaluation},
    }
    if "error" not in train:
        per_chip = work(program, topology)
        one = forecast.step(per_chip, topology, loader=loader.rate if loader else 0.0)
        found |= {
            "step": step_facts(one, program, batch),
            "collectives": train["collectives"],
            "padding": advice.padding(train["padding"]),
            "run": run(config, program, one, topology, loader, examples, prices),
        }
        window, channels = program["stem"]
        word = advice.stem(tuple(window), channels, batch / program["devices"]) if channels else ""
        found["padding"]["advice"] += [word] if word else []
        if loader:
            found["loader"] = supply(loader, one, batch, topology)
    if search or "error" in train:
        found["largest"] = variants(config, topology, program, compiler, WAYS if search else WAYS[:1])
    return found | {"verdict": verdict(found)}


def _need(step: dict[str, Any]) -> int | None:
    """Bytes that a step takes, compiled or refused for memory.

    Raises:
      UserError: the compiler failed for another reason.
    """
    if "error" not in step:
        return step["peak"]
    if libtpu.NO_MEMORY not in step["error"]:
        raise UserError(f"the step does not compile: {step['error']}")
    return fit.needed(step["error"])


def memory(program: dict[str, Any], limit: float) -> dict[str, Any]:
    """What the training step takes on one device, and of what it is made."""
    train, need = program["train"], _need(program["train"])
    found = {"limit": limit, "peak": need, "fits": "error" not in train}
    parts = program["memory"] | {"batch": program["batch_bytes"]}
    if "error" not in train:
        parts |= {"activations": train["activations"]}
        parts |= {"temporaries": max(train["peak"] - sum(parts.values()), 0)}
        found["largest"] = train["largest"]
    return found | {"parts": parts}


def work(program: dict[str, Any], topology: Topology) -> forecast.Work:
    """What one training step asks of one chip."""
    train, share = program["train"], topology.chip.devices
    large = [one for one in train["collectives"] if not one[1]]
    return forecast.Work(
        program["batch"] / topology.chips,
        program["useful_flops"] / topology.chips,
        train["bytes"] * share,
        sum(size for *_, size in large),
        sum(count for _, _, count, _ in large),
        sum(count for _, small, count, _ in train["collectives"] if small),
    )


def step_facts(one: forecast.Step, program: dict[str, Any], batch: int) -> dict[str, Any]:
    """The training step in numbers; bytes and the compiler's operations of one device."""
    return {
        "useful_flops": program["useful_flops"] / program["devices"],
        "compiler_flops": program["train"]["flops"],
        "bytes": program["train"]["bytes"],
        "compute_seconds": one.compute,
        "memory_seconds": one.memory,
        "roofline_seconds": one.roofline,
        "gradient_seconds": one.gradients,
        "statistics_seconds": one.statistics,
        "input_seconds": one.input,
        "seconds": one.seconds,
        "wall": one.wall,
        "examples_per_second": batch / one.seconds,
    }


def supply(loader: Loader, one: forecast.Step, batch: int, topology: Topology) -> dict[str, Any]:
    """What the loader gives beside what one host of the topology has to give."""
    need = batch / (one.chip + one.gradients + one.statistics) / topology.hosts
    found = {"need": need, "rate": loader.rate, "cores": loader.cores, "missing": loader.missing}
    if not loader.missing:
        found |= {"busy": loader.busy, "per_core": loader.per_core, "cores_needed": loader.cores_for(need)}
    return found


def run(
    config: ConfigDict,
    program: dict[str, Any],
    one: forecast.Step,
    topology: Topology,
    loader: Loader | None,
    examples: int,
    prices: dict[str, dict[str, float]] | None,
) -> dict[str, Any]:
    """Steps, hours and dollars of the whole run; steps are None where the number of examples is not known."""
    steps, known = program["steps"], not config.input.fake
    if config.total_steps is None and examples:
        steps, known = configs.steps(config, "total", examples / config.input.batch_size, unset=0), True
    if config.total_steps is None and not known:
        return {"steps": None, "hours": None}
    # An evaluation's work is not read from the data where these are made up.
    chip, evaluation = topology.chip, program["eval"]
    once = evaluation.get("bytes", 0.0) * chip.devices / chip.bandwidth / forecast.REACHED
    evaluations = program["evaluations"] * program["eval_steps"] * once if not config.input.fake else 0.0
    hours = (steps * one.seconds + evaluations) / 3600
    found = {"steps": steps, "hours": hours, "eval_hours": evaluations / 3600, "chip_hours": hours * topology.chips}
    if prices is not None:
        per_hour = prices.get(topology.kind, {})
        found["dollars"] = {column: found["chip_hours"] * price for column, price in per_hour.items()}
    return found


def variants(
    config: ConfigDict,
    topology: Topology,
    program: dict[str, Any],
    compiler: Compiler,
    names: tuple[str, ...] = WAYS,
) -> dict[str, dict[str, Any]]:
    """{variant: {batch, peak} or {error}}: the largest batch over all devices that fits, of these of WAYS."""
    parts = program["parts"] * config.optim.accumulate_steps
    limit = topology.chip.hbm / topology.chip.devices
    held = sum(program["memory"].values())
    start = max(config.input.batch_size // parts, 1)
    need = _need(program["train"])
    changes = {"as it is": {}, "remat": {"model__remat": True}, "fsdp": {"mesh__fsdp": FSDP}}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        way = changed(config, **changes[name])
        seen = {start: need} if name == "as it is" and need is not None else {}

        def peak(size: int, way: ConfigDict = way) -> int | None:
            # One epoch of a huge batch may be less than a step.
            other = changed(way, input__batch_size=size * parts, total_epochs=None, total_steps=STEPS)
            return _need(compiler(other, topology, ("train",))["train"])

        try:
            if not seen:  # a variant holds at least as much: begin where the first ended
                first = fit.nice(found.get("as it is", {}).get("batch", parts) // parts) or 1
                need_first = peak(first)
                seen = {first: need_first} if need_first is not None else {}
            best = fit.largest(peak, seen, limit, 0 if name == "fsdp" else held)
        except UserError as error:
            found[name] = {"error": str(error).splitlines()[0]}
            continue
        found[name] = {"batch": best[0] * parts, "peak": best[1]} if best else {"batch": 0, "peak": None}
    return found


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """{go, reasons, warnings}: whether to rent it."""
    reasons, warnings = [], []
    need, limit = found["memory"]["peak"], found["memory"]["limit"]
    if not found["memory"]["fits"]:
        over = f" by {gib(need - limit)} per device" if need else ""
        reasons.append(f"batch {found['batch']} does not fit {found['topology']}{over}")
        best = found.get("largest", {}).get("as it is", {})
        if best.get("batch"):
            reasons[-1] += f": the largest that does is {best['batch']} (--config.input.batch_size={best['batch']})"
        elif best:
            reasons[-1] += ": none does"
    if not found["eval"]["fits"]:
        reasons.append("the evaluation step does not fit: lower --config.eval.batch_size")
    supply = found.get("loader")
    if supply and not supply["missing"] and supply["rate"] < advice.SLOW * supply["need"]:
        warnings.append(
            f"the loader would starve the chips: {supply['rate']:,.0f} examples/s here, {supply['need']:,.0f} are "
            f"needed per host, about {supply['cores_needed']:.1f} such cores"
        )
    if supply and supply["missing"]:
        warnings.append(f"the loader is not measured: {supply['missing']}")
    step = found.get("step", {})
    if step.get("statistics_seconds", 0) > 0.1 * step.get("seconds", 1):
        warnings.append("a tenth of the step or more waits for BatchNorm statistics: --config.model.bn=group:K")
    return {"go": not reasons, "reasons": reasons, "warnings": warnings}

"""`cnn preflight`: whether a config fits a TPU that is not here, what it needs and costs; or measures this machine.

    cnn preflight --config=configs/classification/imagenet_resnet50.py --topology=v5e:4x4 --prices=prices.csv
    cnn preflight --config=... --sweep            # v2 to tpu7x, and 4 to 4,096 chips of each
    cnn preflight --config=...                    # a few real steps here, beside the forecast

With --topology the real training and evaluation steps are compiled by the TPU's compiler (pip install -e
'.[preflight]', Linux x86-64), in a process of its own. Every number is an estimate. Exit code 0: it fits; 3: it does
not. --prices is a CSV of dollars per chip and hour, with the first line chip,on_demand,spot.
"""

import json
import sys

from ml_collections import ConfigDict

from cnn import config as configs
from cnn import flags
from cnn.errors import UserError
from cnn.preflight import check, libtpu, loader, prices, sweep, text
from cnn.preflight.hardware import CHIPS, topology

EXIT_NO = 3


def main(argv: list[str]) -> int:
    """The command line."""
    parser = flags.Parser("preflight", __doc__)
    parser.add_config()
    kinds = ", ".join(CHIPS)
    parser.add_argument("--topology", default="", help=f"KIND:AxB, as v5e:4x4; of {kinds}; with --sweep a list")
    parser.add_argument("--batch", type=int, default=0, help="over all chips; default: the config's input.batch_size")
    parser.add_argument("--sweep", action="store_true", help="a table over topologies, and a scaling forecast")
    parser.add_argument("--prices", default="", metavar="FILE", help="CSV: chip,on_demand,spot")
    parser.add_argument("--examples", type=int, default=0, help="of the training split, where the data are not here")
    parser.add_argument("--quick", action="store_true", help="no search for the largest batch, no loader measured")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args, overrides = parser.parse(argv)
    config = flags.load_config(args.config, overrides)
    for name in ("batch", "examples"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    if args.batch:
        config.input.batch_size = args.batch
    if not (args.topology or args.sweep):
        if args.prices or args.examples or args.quick:
            raise UserError("--prices, --examples and --quick need --topology or --sweep")
        return here(config, args.json)
    where = tuple(topology(one) for one in args.topology.split(",")) if args.topology else sweep.default()
    if len(where) > 1 and not args.sweep:
        raise UserError(f"--topology {args.topology}: several need --sweep")
    libtpu.check()
    table = prices.read(args.prices) if args.prices else None
    config, supply = with_data(config, quick=args.quick)
    options = {"loader": supply, "examples": args.examples, "prices": table}
    if args.sweep:
        found = sweep.sweep(config, where, **options)
        go = any("verdict" in one and one["verdict"]["go"] for one in found["topologies"])
    else:
        found = check.on_topology(config, where[0], search=not args.quick, **options)
        go = found["verdict"]["go"]
    lines = sweep.report(found) if args.sweep else text.report(found)
    print(json.dumps(found, indent=1) if args.json else "\n".join(lines))
    return 0 if go else EXIT_NO


def with_data(config: ConfigDict, *, quick: bool) -> tuple[ConfigDict, loader.Loader | None]:
    """The config to compile, with made-up examples of the same shapes where the data are not here; the loader."""
    supply = None if config.input.fake else loader.measure(config, 0.0 if quick else loader.SECONDS)
    # Compiling reads one example: no need to decode a whole split for it.
    config = check.changed(config, input__in_memory="no", input__fake=supply is None or bool(supply.missing))
    return config, None if quick and supply and not supply.missing else supply


def here(config: ConfigDict, as_json: bool) -> int:
    """Measures a few real steps on this machine, in a process of its own."""
    found = libtpu.in_a_process(("-m", "cnn.preflight.measured", configs.to_json(config)), env={})
    for key in ("user_error", "error"):
        if key in found:
            raise UserError(found[key])
    found = {"estimate": True} | found
    print(json.dumps(found, indent=1) if as_json else "\n".join(text.measured(found)))
    return 0


if __name__ == "__main__":
    from cnn import cli

    sys.exit(cli.run("preflight"))

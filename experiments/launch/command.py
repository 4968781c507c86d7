"""What is launched: flags of `cnn train`, or a program of the user's own, as they stand after '--'."""

from collections.abc import Callable, Sequence

from cnn import flags
from cnn.errors import UserError

CLOUD = "gs://"


def is_training(command: Sequence[str]) -> bool:
    """Whether it is flags of `cnn train` and no program."""
    return bool(command) and command[0].startswith("-")


def words(command: Sequence[str], python: str, extra: Sequence[str] = ()) -> list[str]:
    """The words that run it with an interpreter; `extra` flags are for `cnn train` only."""
    return [python, "-m", "cnn.train", *command, *extra] if is_training(command) else list(command)


def checked(command: Sequence[str], default_workdir: Callable[[], str]) -> list[str]:
    """The command with a workdir, after everything that can be checked here has been.

    Raises:
      UserError: it is empty, a flag or a field of the config is wrong, no such config.
    """
    if not command:
        raise UserError(
            "say what to run after '--', for instance: -- --config=configs/classification/digits_resnet.py"
        )
    if not is_training(command):
        return list(command)
    parser = flags.Parser("train", "")
    parser.add_config()
    parser.add_argument("--workdir")
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--connect_seconds", type=int)
    parser.add_argument("--heartbeat_seconds", type=int)
    args, overrides = parser.parse(list(command))
    flags.load_config(args.config, overrides)
    return [*command, *([] if args.workdir else [f"--workdir={default_workdir()}"])]


def workdir(command: Sequence[str]) -> str:
    """The run's folder; '' for a program of the user's own."""
    return _value(command, "--workdir")


def config(command: Sequence[str]) -> str:
    """The config's file; '' for a program of the user's own."""
    return _value(command, "--config").partition(":")[0]


def _value(command: Sequence[str], name: str) -> str:
    if not is_training(command):
        return ""
    parser = flags.Parser("train", "")
    parser.add_argument(name, default="", dest="value")
    return parser.parse_known_args(list(command))[0].value


def needs_cloud(command: Sequence[str]) -> None:
    """Raises UserError unless the workdir outlives the machines."""
    place = workdir(command)
    if place and not place.startswith(CLOUD):
        raise UserError(
            f"--workdir={place}: the disks of these machines vanish with them; leave it out (the bucket of "
            f"--bucket is used) or write {CLOUD}BUCKET/FOLDER"
        )

"""`cnn VERB ...`: which module a verb is, and how every verb ends.

A user's mistake ends in one line and exit code 2, never in a traceback. Nothing heavy is imported here, so
`cnn --help` and `cnn list` answer at once.
"""

import errno
import importlib
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import cnn
from cnn.errors import UserError, closest, unknown
from cnn.tables import Entry

VERBS: dict[str, Entry] = {
    "train": Entry("cnn.train:main", "train a network, or go on with an unfinished run"),
    "evaluate": Entry("cnn.evaluate:main", "score a run's checkpoint on any split"),
    "predict": Entry("cnn.predict:main", "predict files, folders or globs: a run's checkpoint, or pretrained"),
    "convert": Entry("cnn.convert.verb:main", "weights of PyTorch, timm, torchvision as a checkpoint"),
    "inspect": Entry("cnn.inspect.verb:main", "look inside a trained network on an input of yours"),
    "report": Entry("cnn.report:main", "one page about a run, or about several with intervals"),
    "data": Entry("cnn.data.tools.verbs:main", "prepare, show and check a data set"),
    "preflight": Entry("cnn.preflight.verb:main", "compile for a TPU that is not here: memory, time, cost, verdict"),
    "list": Entry("cnn.listing:main", "what there is: models, tasks, datasets, transforms, configs"),
    "doctor": Entry("cnn.doctor:main", "versions, devices, caches; what is missing and how to mend it"),
}
STDOUT = 1  # its file descriptor
EXIT_BUG, EXIT_USER_ERROR, EXIT_KEYBOARD, EXIT_BROKEN_PIPE = 1, 2, 130, 141

# System errors that only the user can mend, and what to do about each.
SYSTEM_ERRORS = {
    errno.ENOSPC: "make room on that disk or choose another folder",
    errno.EDQUOT: "make room within the quota or choose another folder",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose another folder or mend its permissions",
    errno.EPERM: "choose another folder or mend its permissions",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`) or lower --config.input.workers",
}


def usage() -> str:
    lines = [f"  {name:<9} {entry.about}" for name, entry in VERBS.items()]
    return "\n".join(
        [
            "usage: cnn VERB [arguments]",
            "",
            "Convolutional networks in JAX and Flax.",
            "",
            "verbs:",
            *lines,
            "",
            "Each takes --help; `python -m cnn.train` is the same as `cnn train` (list is in cnn.listing).",
            "A first run:",
            "  cnn train --config=configs/classification/digits_resnet.py --workdir=runs/digits",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The `cnn` command. Returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _guarded("cnn", lambda: print(usage()))
    if argv[0] == "--version":
        return _guarded("cnn", lambda: print(f"cnn {cnn.__version__}"))
    return run(argv[0], argv[1:])


def run(verb: str, argv: Sequence[str] | None = None) -> int:
    """Runs one verb with its arguments (by default the process's) and returns its exit code.

    Every verb's module ends with `if __name__ == "__main__": sys.exit(cli.run("<verb>"))`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if verb not in VERBS:
        return _guarded("cnn", lambda: _unknown_verb(verb))
    return _guarded(f"cnn {verb}", lambda: _verb_main(verb)(argv))


def _unknown_verb(verb: str) -> NoReturn:
    if verb.startswith("-"):
        near = closest(verb, ["--help", "--version"])
        hint = f"did you mean 'cnn {near}'?" if near else "options come after the verb"
        raise UserError(f"unknown option '{verb}' in place of a verb: {hint} See `cnn --help`")
    raise unknown("verb", verb, VERBS)


def _verb_main(verb: str) -> Callable[[list[str]], int | None]:
    module, attribute = VERBS[verb].target.split(":")
    running = sys.modules["__main__"]
    # `python -m cnn.train` has the module in hand already, under the name `__main__`.
    if getattr(getattr(running, "__spec__", None), "name", None) == module:
        return getattr(running, attribute)
    return getattr(importlib.import_module(module), attribute)


def _guarded(prog: str, call: Callable[[], Any]) -> int:
    """Calls, and turns every way to end into an exit code and at most one line on standard error."""
    try:
        code = call()
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return EXIT_KEYBOARD
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            # The reader (`| head`) has what it wanted. The interpreter flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
            return EXIT_BROKEN_PIPE
        line = _user_line(error)
        if line is not None:
            print(f"{prog}: error: {line}", file=sys.stderr)
            return _leave(EXIT_USER_ERROR)
        traceback.print_exc()
        print(
            f"{prog}: this is a bug of cnn. Please report the lines above together with what "
            "`cnn doctor --json` prints",
            file=sys.stderr,
        )
        return _leave(EXIT_BUG)


def _leave(code: int) -> int:
    """The exit code of a failure; a process with peers ends here, without waiting for them."""
    distributed = sys.modules.get("cnn.distributed")
    if distributed is not None:
        distributed.leave(code)
    return code


def _reader_is_gone() -> bool:
    """True when standard output is a pipe that nobody reads (the error was not another pipe's)."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _user_line(error: BaseException) -> str | None:
    """The one line for an error that is the user's to mend; None for a bug.

    The whole chain of causes counts: libraries wrap what the operating system said (Orbax saves in a
    thread, Grain reads in one).
    """
    for cause in _chain(error):
        line = _line_of(cause)
        if line is not None:
            return " ".join(line.split())
    return None


def _line_of(cause: BaseException) -> str | None:
    flags = sys.modules.get("absl.flags")  # no flag can be wrong before its library is imported
    if isinstance(cause, UserError) or (flags and isinstance(cause, flags.Error)):
        return str(cause)
    if isinstance(cause, OSError) and cause.errno in SYSTEM_ERRORS:
        place = f": {cause.filename}" if cause.filename else ""
        return f"{os.strerror(cause.errno)}{place}: {SYSTEM_ERRORS[cause.errno]}"
    text = str(cause)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # from C++ the number comes as text
        if os.strerror(code) in text:
            return f"{os.strerror(code)}: {SYSTEM_ERRORS[code]} ({text[:200]})"
    if "RESOURCE_EXHAUSTED" in text or isinstance(cause, MemoryError):
        return (
            "out of memory: lower --config.input.batch_size, or raise "
            f"--config.optim.accumulate_steps ({text[:200] or 'MemoryError'})"
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


if __name__ == "__main__":
    sys.exit(main())

"""A plan is a list of plain data: what is run, why, and what undoes it. It prints, and then it runs."""

import dataclasses
import shlex
from collections.abc import Sequence

MOST_SHOWN = 8  # of the commands of a step that differ in a word


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of a plan.

    Attributes:
      name: what the plan calls it; commands of one step on several machines share a name.
      argv: the words, as the system takes them: no shell is between.
      why: one line for the reader.
      undo: the name of the command that takes it back; '' where nothing needs to be.
    """

    name: str
    argv: tuple[str, ...]
    why: str
    undo: str = ""

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a launch does.

    Attributes:
      title: one line.
      facts: (what, value) pairs that a person should know before saying yes.
      files: (path, content) pairs that are written first.
      commands: in the order in which they are first run.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    commands: tuple[Command, ...] = ()

    def of(self, name: str) -> tuple[Command, ...]:
        """All commands of one step."""
        return tuple(command for command in self.commands if command.name == name)

    def one(self, name: str) -> Command:
        """The only command of that name."""
        (command,) = self.of(name)
        return command

    def text(self) -> str:
        """The plan as a person reads it, and could paste it."""
        wide = max((len(what) for what, _ in self.facts), default=0)
        lines = [self.title, *(f"  {what:<{wide}}  {value}" for what, value in self.facts)]
        for path, content in self.files:
            lines += ["", f"writes {path}:", *(f"    {line}".rstrip() for line in content.splitlines())]
        for step in dict.fromkeys(command.name for command in self.commands):
            same = self.of(step)
            undone = f" (undone by: {same[0].undo})" if same[0].undo else ""
            lines += ["", f"{step}: {same[0].why}{undone}", f"    {same[0]}"]
            others = [", ".join(_other_words(same[0], command)) for command in same[1:]]
            if len(others) > MOST_SHOWN:
                others = [*others[: MOST_SHOWN - 2], "...", others[-1]]
            lines += [f"    and with: {' | '.join(others)}"] if others else []
        return "\n".join(lines)


def _other_words(first: Command, command: Command) -> list[str]:
    """The words in which a command differs from the first of its step."""
    same_length = len(first.argv) == len(command.argv)
    pairs = zip(first.argv if same_length else [None] * len(command.argv), command.argv, strict=True)
    return [shlex.quote(word) for before, word in pairs if word != before]


def flag(name: str, value: object) -> str:
    """'--name=value': one word, so that no value is taken for another flag."""
    return f"--{name}={value}"


def script(lines: Sequence[str]) -> str:
    """Lines of a shell script for another machine, stopping at the first that fails."""
    return "\n".join(["set -eu", *lines])

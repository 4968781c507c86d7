"""The runs of a sweep: overrides of config fields, from a grid or drawn at random.

    --grid optim.lr=0.1,0.3 --grid input.batch_size=32,64             4 runs
    --random optim.lr=log:1e-4:1e-1 --random model.depth=int:8:20 --trials 20
    --random optim.name=sgd,adamw                                     one of these

Text that a field takes literally may hold commas: separate such values by ';'.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence

from cnn.errors import UserError

MOST = 1000


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      id: '000', '001', ...; the same for the same flags.
      overrides: {config field: text}.
    """

    id: str
    overrides: dict[str, str]

    def flags(self) -> list[str]:
        """Of `cnn train`."""
        return [f"--config.{field}={value}" for field, value in self.overrides.items()]


def trials(grid: Sequence[str], drawn: Sequence[str], count: int, seed: int) -> list[Trial]:
    """All runs: every combination of the grid or, where something is drawn, `count` random ones of everything.

    Raises:
      UserError: a range that cannot be read, a field twice, too many runs.
    """
    spaces = [_field(text) for text in (*grid, *drawn)]
    fields = [field for field, _ in spaces]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice:
        raise UserError(f"field '{twice}' is swept twice; give all of its values in one --grid or --random")
    if not spaces:
        raise UserError("say what to sweep, for instance: --grid optim.lr=0.1,0.3")
    if drawn:
        if count < 1:
            raise UserError(f"--trials {count}: at least 1")
        generator = random.Random(seed)
        combinations = [[draw(field, text, generator) for field, text in spaces] for _ in range(min(count, MOST + 1))]
    else:
        combinations = list(itertools.islice(itertools.product(*(values(text) for _, text in spaces)), MOST + 1))
    if len(combinations) > MOST:
        raise UserError(f"more than {MOST} runs; sweep fewer values, or draw some with --random and --trials")
    return [Trial(f"{n:03d}", dict(zip(fields, chosen, strict=True))) for n, chosen in enumerate(combinations)]


def _field(text: str) -> tuple[str, str]:
    field, separator, space = text.removeprefix("--config.").removeprefix("config.").partition("=")
    if not (field and separator and space):
        raise UserError(f"'{text}': write FIELD=VALUE,VALUE or, with --random, FIELD=log:LOW:HIGH")
    return field, space


def values(text: str) -> list[str]:
    """'0.1,0.3' or '(1,2);(3,4)' as its values."""
    return [value.strip() for value in text.split(";" if ";" in text else ",")]


def draw(field: str, text: str, generator: random.Random) -> str:
    """One value of 'lin:LOW:HIGH', 'log:LOW:HIGH', 'int:LOW:HIGH' (both ends are in it) or of a list.

    Raises:
      UserError: no such range.
    """
    how, *ends = text.split(":")
    if how not in ("lin", "log", "int"):
        return generator.choice(values(text))
    try:
        low, high = (float(end) for end in ends)
    except ValueError as error:
        raise UserError(f"--random {field}={text}: write {how}:LOW:HIGH with two numbers") from error
    if not low < high or how == "log" and low <= 0 or not math.isfinite(high - low):
        raise UserError(f"--random {field}={text}: LOW is below HIGH{', and above 0' if how == 'log' else ''}")
    if how == "int":
        return str(generator.randint(math.ceil(low), math.floor(high)))
    if how == "log":
        return f"{math.exp(generator.uniform(math.log(low), math.log(high))):.4g}"
    return f"{generator.uniform(low, high):.4g}"

"""What a chip costs per hour: a table that the user supplies, because prices differ by zone, contract and day.

    chip,on_demand,spot
    v5e,1.20,0.50

The launcher and `cnn preflight` read it. No price is built in.
"""

import csv
import math

from cnn.errors import UserError

COLUMNS = ("on_demand", "spot")


def per_chip_hour(path: str, kind: str, spot: bool) -> float:
    """Dollars per chip and hour: the column `spot`, or else `on_demand`.

    Raises:
      UserError: no such file, another form, no price for this kind.
    """
    column = COLUMNS[spot]
    price = read(path).get(kind, {}).get(column, math.nan)
    if not 0 <= price < math.inf:
        raise UserError(
            f"--prices {path}: no price of {kind} in column '{column}'; its first line is chip,on_demand,spot"
        )
    return price


def read(path: str) -> dict[str, dict[str, float]]:
    """{kind of chip: {column: dollars per chip and hour}}; what is no number is left out.

    Raises:
      UserError: no such file, another form.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--prices {path}: {getattr(error, 'strerror', None) or 'is no CSV file'}") from error
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        prices = {column: number for column in COLUMNS if (number := _number(row.get(column))) is not None}
        found[(row.get("chip") or "").strip()] = prices
    return found


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None

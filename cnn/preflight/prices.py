"""What a chip costs per hour: a table that the user supplies, because prices differ by zone, contract and day.

    chip,on_demand,spot
    v5e,1.20,0.50

It is the table of `cnn preflight --prices`. No price is built in.
"""

import csv
import math

from cnn.errors import UserError


def per_chip_hour(path: str, kind: str, spot: bool) -> float:
    """Dollars per chip and hour: the column `spot`, or else `on_demand`.

    Raises:
      UserError: no such file, another form, no price for this kind.
    """
    column = "spot" if spot else "on_demand"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = {(row.get("chip") or "").strip(): row for row in csv.DictReader(file)}
    except OSError as error:
        raise UserError(f"--prices {path}: {error.strerror}") from error
    try:
        price = float(rows[kind][column])
    except (KeyError, TypeError, ValueError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise UserError(
            f"--prices {path}: no price of {kind} in column '{column}'; its first line is chip,on_demand,spot"
        )
    return price

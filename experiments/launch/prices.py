"""What a chip costs per hour: a table that the user supplies, because prices differ by zone, contract and day.

    kind,usd_per_chip_hour,spot_usd_per_chip_hour
    v5e,1.20,0.50

No price is built in.
"""

import csv
from pathlib import Path

from cnn.errors import UserError, unknown

COLUMNS = ("kind", "usd_per_chip_hour", "spot_usd_per_chip_hour")


def per_chip_hour(path: str, kind: str, spot: bool) -> float:
    """Dollars per chip and hour.

    Raises:
      UserError: no such file, another form, no price for this kind.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = {row[COLUMNS[0]].strip(): row for row in csv.DictReader(file)}
        if kind not in rows:
            raise unknown(f"kind of chip in {path}:", kind, rows)
        price = float(rows[kind][COLUMNS[2 if spot else 1]])
    except OSError as error:
        raise UserError(f"price table {Path(path)}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"price table {path}: {'spot ' if spot else ''}price of '{kind}' is missing or no number; "
            f"its first line is {','.join(COLUMNS)}"
        ) from error
    if not price >= 0:
        raise UserError(f"price table {path}: the price of '{kind}' is {price:g}; it must be at least 0")
    return price

"""`cnn train` as always, and a journal beside it of the examples that this process fed to each step, and its loss.

    python -m tests.support.journal FOLDER --config=... --workdir=...
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from cnn import cli
from cnn.plan import Plan
from tests.support import quick
from tests.support.killable import _number_rows


def main() -> int:
    """The exit code of training."""
    folder, place, make = Path(sys.argv[1]), Plan.place, Plan.train_step

    def noted(self, batch):
        rows = np.asarray(batch["row"]).tolist()
        with open(folder / f"rows_{jax.process_index()}.jsonl", "a") as file:
            file.write(json.dumps(rows) + "\n")
        return place(self, {key: value for key, value in batch.items() if key != "row"})

    def train_step(self):
        step = make(self)

        def losing(state, batch):
            state, aux = step(state, batch)
            with open(folder / f"losses_{jax.process_index()}.jsonl", "a") as file:
                file.write(f"{float(aux['loss'])!r}\n")
            return state, aux

        return losing

    Plan.place, Plan.train_step = noted, train_step
    _number_rows()
    quick.training()  # the steps of its timing would be none of the run's
    return cli.run("train", sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

"""What tests of weight files share."""

import numpy as np
import pytest

from cnn.convert.files import read_state


@pytest.fixture
def read(tmp_path):
    def run(content: bytes) -> dict[str, np.ndarray]:
        path = tmp_path / "weights.any"
        path.write_bytes(content)
        return read_state(path)

    return run

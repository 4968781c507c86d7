"""MNASNet-B1 (Tan et al. 2019, arXiv 1807.11626), the searched network without squeeze-and-excitation.

Sizes of the authors' code, which torchvision and timm share. Stages at strides 2, 4, 8, 16, 32.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

from cnn.models.backbone import make_divisible
from cnn.models.mobile import FAN_OUT_UNIFORM, MobileBackbone, Plan, Row, lay_out

LAYOUT = (
    Row(1, 3, 1, 16, 1),
    Row(3, 3, 2, 24, 3),
    Row(3, 5, 2, 40, 3),
    Row(6, 5, 2, 80, 3),
    Row(6, 3, 1, 96, 2),
    Row(6, 5, 2, 192, 4),
    Row(6, 3, 1, 320, 1),
)


class MNASNet(MobileBackbone):
    """The family. The very first block has no shortcut; `width` leaves the last 1280 channels alone."""

    layout: Sequence[tuple] = LAYOUT
    dropout: float = 0.2

    TINY = {
        "layout": (
            Row(1, 3, 1, 8, 1),
            Row(2, 3, 2, 8, 1),
            Row(2, 5, 2, 8, 2),
            Row(2, 3, 2, 8, 1),
            Row(2, 3, 2, 8, 1),
        ),
        "width": 0.5,
    }

    def plan(self) -> Plan:
        def wide(channels: int) -> int:
            return make_divisible(channels * self.width)

        blocks = lay_out(self.layout, wide(32), wide, act="relu")
        blocks[0] = dataclasses.replace(blocks[0], skip=False)
        return Plan(wide(32), blocks, top=1280, act="relu", head_init=FAN_OUT_UNIFORM)


mnasnet_050 = partial(MNASNet, width=0.5)
mnasnet_075 = partial(MNASNet, width=0.75)
mnasnet_100 = partial(MNASNet)
mnasnet_130 = partial(MNASNet, width=1.3)
mnasnet_140 = partial(MNASNet, width=1.4)

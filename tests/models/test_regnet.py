"""RegNet's rule: four numbers make the stages that the paper prints."""

import pytest

from cnn.errors import UserError
from cnn.models import regnet

# name: (blocks, channels) of each stage and the group width, as the paper prints them
PRINTED = {
    "regnetx_006": ((1, 3, 5, 7), (48, 96, 240, 528), 24),
    "regnetx_032": ((2, 6, 15, 2), (96, 192, 432, 1008), 48),
    "regnetx_080": ((2, 5, 15, 1), (80, 240, 720, 1920), 120),
    "regnetx_320": ((2, 7, 13, 1), (336, 672, 1344, 2520), 168),
    "regnety_040": ((2, 6, 12, 2), (128, 192, 512, 1088), 64),
    "regnety_080": ((2, 4, 10, 1), (168, 448, 896, 2016), 56),
    "regnety_320": ((2, 5, 12, 1), (232, 696, 1392, 3712), 232),
}


@pytest.mark.parametrize("name", PRINTED)
def test_stages_are_those_of_the_paper(name):
    blocks, widths, group = zip(*getattr(regnet, name)().stage_plan(), strict=True)
    assert (blocks, widths) == PRINTED[name][:2]
    assert group[-1] == PRINTED[name][2]  # narrower stages are one group


def test_groups_are_never_wider_than_their_stage():
    assert regnet.stage_plan(2, 24, 0.0, 2.0, 64) == [(2, 24, 24)]


@pytest.mark.parametrize("options", [{"wm": 1.0}, {"w0": 20}, {"wa": -1.0}, {"depth": 0}])
def test_numbers_that_make_no_network(options):
    with pytest.raises(UserError, match="make no RegNet"):
        regnet.RegNet(**options)

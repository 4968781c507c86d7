"""From a config to its parts: the shape that the network sees, and what does not fit the data."""

import jax
import pytest
from ml_collections import ConfigDict

from cnn.build import build, network_spec
from cnn.card import info_from_card, make_card, spec_from_card
from cnn.data import open_dataset
from cnn.errors import UserError
from tests.support.runs import tiny


def built(**changes):
    config = tiny(**changes)
    dataset = open_dataset(config.input)
    return build(config, dataset.info, network_spec(config, dataset.info, dataset.source("train")))


def test_the_network_is_made_for_the_shape_after_the_transforms():
    resized = (("channels", {}), ("resize", {"size": (6, 4)}))
    given = {"input__eval_transforms": resized, "input__mean": (0.5,) * 3, "input__std": (0.5,) * 3}
    found = built(**given, model=ConfigDict({"name": "mlp"}))
    kernels = [x.shape for x in jax.tree.leaves(found.shapes["params"])]
    assert found.spec["image"][0] == (6, 4, 3) and 72 in [shape[0] for shape in kernels]
    card = make_card(found.config, found.info, found.spec)
    again = build(found.config, info_from_card(card), spec_from_card(card))
    assert again.shapes == found.shapes


def test_fake_photos_of_any_size():
    cropped = (("resize_short", {"size": 20}), ("center_crop", {"size": 16}))
    given = {"input__mean": (), "input__std": (), "input__eval_transforms": cropped}
    assert built(input__dataset="imagenet2012", **given).spec["image"][0] == (16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input__train_transforms": (("noise", {}),)}, "transform 'noise' needs 'series' or 'volume', data set"),
        ({"input__eval_transforms": (("scale", {}),)}, "transform 'scale' needs 'series'"),
        ({"input__mean": (0.5,) * 3, "input__std": (0.2,) * 3}, "input.mean has 3 channels, the input has 1"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(changes, said):
    changes = {k: ConfigDict(v) if isinstance(v, dict) else v for k, v in changes.items()}
    with pytest.raises(UserError, match=said) as caught:
        built(**changes)
    assert "\n" not in str(caught.value)

"""FCN (Long et al. 2014, arXiv 1411.4038): the classifier becomes a convolution, its answers are interpolated.

The form of torchvision, whose weights fit: a dilated backbone in place of the paper's skips from finer stages, a 3x3
convolution to a quarter of the channels in front of the classifier, bilinear interpolation by 8.
"""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Array, Float

from cnn.models.dense import FCNHead, HeadOnBackbone


class FCN(HeadOnBackbone):
    """The family."""

    def answer(self, stages: Sequence[Array], train: bool) -> Float[Array, "b *coarse k"]:
        """From the last stage."""
        return self.head(FCNHead, dropout=self.dropout)(stages[-1], train)


fcn_resnet50 = partial(FCN)
fcn_resnet101 = partial(FCN, backbone={"name": "resnet101"})

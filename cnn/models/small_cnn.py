"""Networks for small pictures that train in minutes on a laptop's processor."""

from functools import partial

from cnn.models.resnet import ResNet

fashion_cnn = partial(ResNet, stage_sizes=(1, 1), width=16, stem="strided")

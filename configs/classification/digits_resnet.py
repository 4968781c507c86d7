"""Small ResNet on scikit-learn's digits: the first run of this repository.

Data: UCI optdigits as bundled with scikit-learn, first half to train, second half to test, the split of
scikit-learn's example "Recognizing hand-written digits" (SVC: 96.9 %).
"""

from ml_collections import ConfigDict

from cnn import config


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_epochs = 60.0
    c.model = ConfigDict({"name": "resnet_small"})
    c.task = ConfigDict({"name": "classification", "label_smoothing": 0.1})

    c.input.dataset = "digits"
    c.input.train_split = "train[:90%]"
    c.input.batch_size = 32
    c.input.train_transforms = ConfigDict(
        {"pad_crop": {"padding": 1}, "affine": {"degrees": 12.0, "scale": 0.1, "shear": 0.15}}
    )
    c.input.mean, c.input.std = (0.3,), (0.37,)

    c.optim.name = "sgd"
    c.optim.lr = 0.05
    c.optim.weight_decay = 5e-4
    c.optim.ema_decay = 0.99
    c.schedule.warmup_epochs = 3.0

    c.eval.split = "train[90%:]"  # no test digit is looked at before the end
    c.eval.every_epochs = 6.0
    return config.finish(c, arg)

"""Residual U-Net with deep supervision on a task of the Medical Segmentation Decathlon, here the spleen (Task09, CT).

Antonelli et al. 2022 (arXiv 2106.05735); the recipe follows nnU-Net (Isensee et al. 2021, arXiv 1809.10486). For one
GPU or TPU with 16 GiB; not run. Download Task09_Spleen.tar, unpack it, look at it and let the plan choose for yours:

    pip install -e '.[medical]'
    cnn data check volumes_folder --data_dir=Task09_Spleen
    cnn data plan Task09_Spleen --memory_gb=16 --dtype=bfloat16
    cnn train --config=configs/medical/msd_unet3d.py --config.input.data_dir=Task09_Spleen --workdir=runs/spleen

The numbers of the intensities below are typical of soft tissue in CT; the plan measures those of the data. Evaluation
scores the middle of each volume; whole volumes go by tiles (`cnn.inference.tiles`).
"""

from ml_collections import ConfigDict

from cnn import config

SPACING = (1.6, 0.8, 0.8)  # mm along d, h, w
PATCH = (64, 160, 160)


def get_config(arg: str = "") -> ConfigDict:
    """The config; arg 'smoke' shrinks it to a few seconds."""
    c = config.default()
    c.total_steps = 50_000
    c.model = ConfigDict(
        {
            "name": "residual_unet",
            "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
            "kernel_sizes": ((1, 3, 3), 3, 3, 3, 3, 3),
            "aux": True,
        }
    )
    c.task = ConfigDict({"name": "segmentation", "loss": "ce+dice", "spacing": SPACING})

    c.input.dataset = "volumes_folder"
    c.input.batch_size = 2
    patch, window = ((8, 8, 8),) * 2 if arg == "smoke" else (PATCH, (96, 320, 320))
    same = (
        ("volume_spacing", {"spacing": SPACING}),
        ("volume_intensity", {"modality": "ct", "clip": (-160.0, 240.0), "mean": 40.0, "std": 60.0}),
    )
    c.input.train_transforms = (
        *same,
        ("volume_patch", {"size": patch, "degrees": 15.0, "scale": 0.25, "elastic": 2.0}),
        ("volume_mirror", {}),
        ("volume_gamma", {}),
        ("scale", {"factor": (0.75, 1.25)}),
        ("noise", {"std": 0.1}),
    )
    c.input.eval_transforms = (*same, ("volume_fit", {"size": window}))

    c.optim.name = "sgd"
    c.optim.lr = 1e-2
    c.optim.momentum = 0.99
    c.optim.weight_decay = 3e-5
    c.optim.clip_norm = 12.0
    c.schedule.warmup_steps = 500

    c.eval.every_steps = 2_500
    c.eval.batch_size = 1
    c.eval.metric = "dice"
    config.finish(c, arg)
    if arg == "smoke":
        c.model.widths, c.model.blocks = (4, 4, 8), (1, 1, 1)
        c.model.strides, c.model.kernel_sizes = c.model.strides[:2], c.model.kernel_sizes[:3]
        c.input.batch_size = c.eval.batch_size = 2
    return c

"""The recipes of the papers and our own, as frozen configurations. What each is published to reach stands beside it.

An option the source does not name is off. ``precision`` is our addition: the sources train in automatic mixed precision
or do not say.
"""

from __future__ import annotations

from snp_lib.training.recipe import Recipe

CCT_300 = Recipe(
    epochs=310,
    batch_size=128,
    lr=6e-4,
    weight_decay=0.06,
    warmup_epochs=10,
    warmup_lr=1e-6,
    min_lr=1e-5,
    cooldown_epochs=10,
    crop_padding=0,
    resized_crop=0.8,
    policy="rand-m9-mstd0.5-inc1",
    mixup=0.8,
    cutmix=1.0,
    erasing=0.25,
    label_smoothing=0.1,
    precision="auto",
    eval_every=10,
)
"""CCT on CIFAR-100 (Hassani et al., released configuration ``cct_7-3x1_cifar100.yml``): 300 epochs, then 10 of cool-down.

Published: CCT-7/3x1 80.92 % (best of four runs). Ours: not yet measured; its mixing draws a share for every image where
timm draws one for the batch.
"""

CCT_LIGHT_200 = Recipe(
    epochs=200,
    batch_size=128,
    lr=5e-4,
    weight_decay=0.03,
    warmup_epochs=5,
    warmup_lr=1e-4,
    min_lr=0.0,
    policy="autoaugment",
    label_smoothing=0.1,
    precision="auto",
    eval_every=10,
)
"""CCT on CIFAR-100, the light recipe of the released code, AutoAugment (CIFAR policy), no mixing.

Published: CCT-7/3x1 77.05 %, 6/3x1 76.71 %, 7/3x2 74.92 %, 4/3x2 70.46 %, 2/3x2 66.90 %. Ours: not yet measured.
"""

VGG_300 = Recipe(
    epochs=300,
    batch_size=100,
    optimizer="sgd",
    lr=0.028,
    head_lr=0.01,
    momentum=0.9175,
    weight_decay=1e-3,
    schedule="step",
    step_epochs=20,
    step_factor=0.6,
    label_smoothing=0.0,
    normalization="unit",
    eval_every=10,
)
"""VGG of paper C on CIFAR-100 (released code; which of its settings made the published numbers is our best guess).

Published: none we can quote; a plain VGG-11-BN reaches 68.6 % in a widely used repository. Ours: not yet measured.
"""

PARK_KIM_300 = Recipe(
    epochs=305,
    batch_size=96,
    lr=1.25e-4,
    weight_decay=0.05,
    warmup_epochs=5,
    warmup_lr=0.0,
    min_lr=0.0,
    clip_norm=5.0,
    policy="rand-m9-n2-mstd1.0",
    mixup=1.0,
    cutmix=0.8,
    label_smoothing=0.1,
    precision="auto",
    eval_every=10,
)
"""CNNs and ViTs of paper D on CIFAR-100 (released configuration), 5 epochs of warm-up, then 300 of cosine.

Published: ViT-Ti 66.5 %, ResNet-50 82.5 %, Alter-ResNet-50 84.0 % (read off a figure). Ours: not yet measured.
"""

SHORT_16 = Recipe(epochs=16, batch_size=128, lr=1e-3, weight_decay=0.03, warmup_epochs=0.5, precision="auto", eval_every=4)
"""Our own recipe for transformers on CIFAR-100 in few epochs, with crops and flips, without policy and mixing."""

FLOWERS_150 = Recipe(
    epochs=150,
    batch_size=60,
    lr=1e-3,
    weight_decay=0.06,
    warmup_epochs=10,
    crop_padding=0,
    resized_crop=0.4,
    erasing=0.25,
    precision="auto",
    eval_every=50,
)
"""Our own recipe for compact transformers on the 1,020 training photographs of Flowers-102."""

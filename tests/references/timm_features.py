"""Features of the two timm networks that Zoobot's hub weights can be, computed by timm itself.

Not a test: `tests/data/timm-efficientnet_b0.npz` was made by it, and a test runs it again where
timm can be imported::

    pip install timm torch torchvision
    python tests/references/timm_features.py tests/data/timm-efficientnet_b0.npz

With a folder as second argument it also saves each network there in the layout of the hub, by
timm's own ``push_to_hf_hub`` code.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from random_weights import random_images, random_state

ARCHITECTURES = ("efficientnet_b0", "tf_efficientnet_b0")
SEED = 20
IMAGES = (2, 64, 64, 3)


def import_timm():
    """timm; where torchvision's compiled part does not fit this PyTorch, without that part.

    timm imports torchvision for its data pipelines, none of which is used here, and torchvision
    cannot be imported unless two operators of its compiled part are at least declared.
    """
    try:
        import timm
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm
    return timm


def main(output: Path, hub: Path | None) -> None:
    """Write names, shapes and features of both networks; the weights follow from the seed."""
    timm = import_timm()
    found = {"versions": f"timm {timm.__version__}, torch {torch.__version__}"}
    images = torch.from_numpy(random_images(SEED, IMAGES).transpose(0, 3, 1, 2))
    for architecture in ARCHITECTURES:
        model = timm.create_model(architecture, num_classes=0).eval()
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        state = random_state(shapes, SEED)
        model.load_state_dict({name: torch.from_numpy(a) for name, a in state.items()})
        with torch.no_grad():
            features = model.forward_features(images).numpy().transpose(0, 2, 3, 1)
        found[f"{architecture}/shapes"] = json.dumps(shapes)
        found[f"{architecture}/features"] = features
        if hub:
            from timm.models import save_for_hf

            save_for_hf(model, str(hub / architecture), safe_serialization="both")
    np.savez_compressed(output, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)

"""Write a small PyTorch state dict with the layouts that a file may have.

Not a test: `tests/data/torch-state.bin` was made by it (``pip install torch``)::

    python tests/references/torch_state.py tests/data/torch-state.bin
"""

import sys

import torch

numbers = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)


class Net(torch.nn.Module):
    """Holds the tensors, so that the file is a real module's state dict, metadata included."""

    def __init__(self):
        super().__init__()
        self.register_buffer("plain", numbers.clone())
        self.register_buffer("transposed", numbers.permute(2, 0, 1))
        self.register_buffer("part", numbers[1, 1:])
        self.register_buffer("steps", torch.tensor(7))


if __name__ == "__main__":
    torch.save(Net().state_dict(), sys.argv[1])

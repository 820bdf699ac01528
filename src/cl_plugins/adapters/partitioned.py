"""Tensors that DeepSpeed ZeRO-3 has split over the ranks: reading, writing and computing with them.

Outside a training engine a split tensor is empty. Everything here is collective: every rank has to take part, in the
same order. For a model that is not split, all of it does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


_OF_THE_ENGINE = {"pre_bwd_fn", "post_bwd_fn", "applied_pre_backward_ref_cnt", "_external_params", "all_parameters"}


def is_partitioned(parameter: Any) -> bool:
    """Whether ZeRO-3 has split a parameter."""
    return hasattr(parameter, "ds_id")


def size(parameter: Any) -> int:
    """Number of elements of a parameter, also of a split one (whose ``numel()`` is 0)."""
    return int(parameter.ds_numel if is_partitioned(parameter) else parameter.numel())


@contextmanager
def gathered(parameters: Iterable[Any], *, write: bool = False) -> Iterator[None]:
    """Whole tensors inside the block.

    Args:
        parameters: Any parameters; those that are not split stay as they are.
        write: What rank 0 writes into them inside becomes everyone's value.
    """
    split = [parameter for parameter in parameters if is_partitioned(parameter)]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split, modifier_rank=0 if write else None):
        yield


def whole(parameter: Any) -> Tensor:
    """A CPU copy of a parameter."""
    with gathered([parameter]):
        copy: Tensor = parameter.detach().to("cpu", copy=True).contiguous()
        return copy


def whole_on_main(parameter: Any) -> Tensor:
    """A CPU copy of a parameter; of a split one only rank 0 keeps it, the others get an empty tensor.

    Eight ranks that keep a model of seven billion fp32 weights each would need 224 GB.
    """
    import torch

    if not is_partitioned(parameter):
        return whole(parameter)
    with gathered([parameter]):
        if torch.distributed.get_rank() == 0:
            return parameter.detach().to("cpu", copy=True).contiguous()
        return torch.empty(0, dtype=parameter.dtype)


def one_dtype(model: Module) -> None:
    """Give what trains in addition to a split model the dtype in which the model was loaded.

    ZeRO-3 keeps all trained tensors in one buffer, so in one dtype; but of a bf16 base PEFT makes the LoRA in fp32 and
    the copied modules in bf16. ZeRO-2 casts what it trains by itself. In both the optimizer works on fp32 copies.

    Args:
        model: The model with its adapter; nothing happens if no tensor of it is split.
    """
    split = next((p for p in model.parameters() if is_partitioned(p) and p.is_floating_point()), None)
    if split is None:
        return
    for parameter in model.parameters():
        if parameter.requires_grad and not is_partitioned(parameter):
            parameter.data = parameter.data.to(split.dtype)


def forget_engine(model: Module) -> None:
    """Take off what a destroyed training engine leaves on the modules.

    DeepSpeed removes its hooks but keeps functions that belong to the old engine on every module; the next engine
    would use them, and a copied module (PEFT's ``modules_to_save``) would count the backward passes of its original.
    """
    for module in model.modules():
        for name in [n for n in vars(module) if n.startswith("ds_") or n in _OF_THE_ENGINE]:
            delattr(module, name)


@contextmanager
def forward_gathers(model: Module) -> Iterator[None]:
    """Let a split model compute without a training engine: each module's own tensors are whole while it runs.

    One module's tensors are in memory at a time, as in a ZeRO-3 forward without prefetching. All ranks must call the
    model equally often (``synced_gpus`` in ``generate``).
    """
    import torch

    handles: list[Any] = []
    opened: dict[int, list[Any]] = {}

    def begin(module: Any, _: Any) -> None:
        # attention of plain PyTorch reads the weights of its output layer without calling that layer
        deep = isinstance(module, torch.nn.MultiheadAttention)
        context = gathered([*module.parameters(recurse=deep)])
        context.__enter__()
        opened.setdefault(id(module), []).append(context)

    def end(module: Any, _: Any, __: Any) -> None:
        opened[id(module)].pop().__exit__(None, None, None)

    for module in model.modules():
        if any(is_partitioned(p) for p in module.parameters(recurse=isinstance(module, torch.nn.MultiheadAttention))):
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for contexts in opened.values():  # an error inside a forward left them open
            for context in contexts:
                context.__exit__(None, None, None)

"""Bases that the host quantises while it loads them.

bitsandbytes quantises every linear layer but the output head, the projector with the others. A quantised layer cannot
be trained, so the host fails on ``additional_target: multi_modal_projector`` with ``quantization_bit``. Modules
that train are therefore left out of the quantisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from .task_args import HostArgs


@contextmanager
def trained_modules_whole(args: HostArgs) -> Iterator[None]:
    """While the host loads a base, keep the modules that will be trained out of the quantisation."""
    from llamafactory.model import loader

    original = loader.patch_config
    names = args.trained_modules

    def patch_config(config: Any, tokenizer: Any, model_args: Any, init_kwargs: dict[str, Any], *rest: Any) -> None:
        original(config, tokenizer, model_args, init_kwargs, *rest)
        wanted = init_kwargs.get("quantization_config")
        if names and wanted is not None and hasattr(wanted, "llm_int8_skip_modules"):
            # a list of our own switches the default off, so the default is in it; Transformers 5 reads the names as
            # patterns from the start of the full name, Transformers 4 as parts of it
            own = [pattern for name in names for pattern in (name, f".*{name}")]
            wanted.llm_int8_skip_modules = sorted({*own, *_default_skips(config, model_args)})

    loader.patch_config = patch_config
    try:
        yield
    finally:
        loader.patch_config = original


def _default_skips(config: Any, model_args: Any) -> list[str]:
    """What Transformers leaves unquantised by itself: output head and last layer, found without any weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    image_text = type(config) in AutoModelForImageTextToText._model_mapping
    auto = AutoModelForImageTextToText if image_text else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=model_args.trust_remote_code)
    head = model.get_output_embeddings()
    found = [name for name, module in model.named_modules() if head is not None and module is head]
    last = list(dict(model.named_parameters()))[-1]
    return [*found, last.removesuffix(".weight").removesuffix(".bias")]


def is_quantised(parameter: Any) -> bool:
    """Whether a parameter holds packed values; their storage may call itself fp32 (``bnb_4bit_quant_storage``)."""
    return type(parameter).__name__ in {"Params4bit", "Int8Params"} or not parameter.is_floating_point()


def check_trained_modules(model: Any, args: HostArgs) -> None:
    """Refuse a base that came quantised with a module that should be trained.

    Raises:
        CompatibilityError: Naming the modules.
    """
    if getattr(model, "quantization_method", None) is None:
        return
    bad = sorted(
        {
            name
            for name in args.trained_modules
            for full, parameter in model.named_parameters()
            if f".{name}." in f".{full}" and is_quantised(parameter)
        }
    )
    if bad:
        what = f"{', '.join(bad)} is quantised in this base and cannot be trained."
        fix = "Quantise the base with `llm_int8_skip_modules` for it, or start from the unquantised base."
        raise CompatibilityError(Problem("additional_target", what, fix))


def keep_unpacked(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights when they are first evaluated.

    On CPUs with AVX512-BF16 an evaluation changes the weights for good: their scales are rounded to bf16, and a later
    training gets no gradient through them, without a word. A stream evaluates before it trains.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantisation_of(model: Any) -> dict[str, Any] | None:
    """The quantisation config that a base was loaded with, as JSON; None for a plain base."""
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    if config is None:
        return None
    value = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        key: item if isinstance(item, (str, int, float, bool, list, dict, type(None))) else str(item)
        for key, item in value.items()
    }

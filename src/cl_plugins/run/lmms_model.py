"""The model in memory as lmms-eval takes it: a subclass of its ``lmms`` that generates greedily, one item at a time."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any


def in_memory(model: Any, processor: Any, longest: int, precision: str | None = None) -> Any:
    """Wrap a model for ``lmms_eval.evaluator.simple_evaluate``.

    Args:
        model: A model of Transformers, in memory.
        processor: Its processor, or its tokenizer for a model of texts, with a chat template.
        longest: Longest answer in tokens, for tasks that do not say.
        precision: Dtype of the computation under autocast; None computes as the model is held.

    Returns:
        An instance of lmms-eval's ``lmms``. It answers requests ``generate_until`` with pictures or without; other kinds of
        requests raise `NotImplementedError`.
    """
    import torch

    base: Any = import_module("lmms_eval.api.model").lmms
    device = next(model.parameters()).device
    dtype = getattr(torch, precision) if precision else None

    class InMemory(base):  # type: ignore[misc]
        is_simple = True

        def __init__(self) -> None:
            super().__init__()
            # lmms-eval deletes the modules that it finds on this object when it is done
            self.ask = lambda context, pictures, settings: _ask(model, processor, context, pictures, settings, longest)
            nothing = lambda *args, **kwargs: None  # noqa: E731
            self.accelerator = SimpleNamespace(wait_for_everyone=nothing, free_memory=nothing, is_main_process=True)

        @property
        def device(self) -> Any:
            return device

        def generate_until(self, requests: Any) -> list[str]:
            found = []
            for request in requests:
                context, settings, visuals, number, task, split = request.args
                pictures = [p for p in (visuals(self.task_dict[task][split][number]) or []) if p is not None]
                around = torch.autocast(device.type, dtype=dtype) if dtype is not None else nullcontext()
                with torch.no_grad(), around:
                    found.append(self.ask(context, pictures, settings))
            return found

        def generate_until_multi_round(self, requests: Any) -> list[str]:
            raise NotImplementedError("tasks with several rounds are not supported")

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            raise NotImplementedError("tasks with log-likelihoods are not supported")

    return InMemory()


def _ask(model: Any, processor: Any, context: str, pictures: list[Any], settings: Any, longest: int) -> str:
    """One greedy answer."""
    if any(isinstance(each, str) for each in pictures):
        raise NotImplementedError("tasks with videos or sounds are not supported")
    text = context.replace("<image>", "").strip()
    content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    media = {"images": [each.convert("RGB") for each in pictures]} if pictures else {}
    inputs = processor(text=prompt, add_special_tokens=False, return_tensors="pt", **media)
    inputs = {key: value.to(model.device) for key, value in inputs.items()}
    most = int((settings or {}).get("max_new_tokens") or longest)
    given = model.generate(**inputs, do_sample=False, max_new_tokens=most)
    answer = given[0, inputs["input_ids"].shape[1] :]
    tokenizer = getattr(processor, "tokenizer", processor)
    found = str(tokenizer.decode(answer, skip_special_tokens=True))
    ends = (settings or {}).get("until") or []
    for end in [ends] if isinstance(ends, str) else ends:
        found = found.split(end)[0] if end else found
    return found

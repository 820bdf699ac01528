"""Stands in for vLLM: the same calls with the same names, answered by Transformers on the CPU.

The signatures are those of vLLM 0.8 to 0.28, cut to the arguments that evaluation could use; an argument that vLLM does not
know is an error here as it is there. A prompt holds one token per picture, which is widened here to as many tokens as the model
wants, as vLLM does. Of the model's generation config only the tokens that end an answer count, as there if sampling parameters
are given; `tests/engines/test_vllm_in_process.py` runs vLLM itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


__version__ = "0.0-fake"
LOG = os.environ.get("VLLM_LOGGING_STREAM", "ext://sys.stdout")
STARTED: list[LLM] = []


@dataclass
class SamplingParams:
    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        seed: int | None = None,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        limit_mm_per_prompt: dict[str, int] | None = None,
        enable_prefix_caching: bool | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        if not isinstance(model, str):
            raise TypeError("model must be a string")
        if not (Path(model) / "tokenizer_config.json").is_file():
            raise OSError(f"{model} has no tokenizer")
        if max_model_len is not None and max_model_len > 512:
            raise ValueError(
                f"User-specified max_model_len ({max_model_len}) is greater than the derived\nmax_model_len."
            )
        self.given = {"model": model, "dtype": dtype, "seed": seed, "limit_mm_per_prompt": limit_mm_per_prompt,
                      "gpu_memory_utilization": gpu_memory_utilization}  # fmt: skip
        self.calls: list[tuple[int, SamplingParams]] = []
        self.ended = False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._end))
        self._limit = (limit_mm_per_prompt or {}).get("image", 0)
        self._model = AutoModelForImageTextToText.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        STARTED.append(self)

    def _end(self) -> None:
        self.ended = True

    def generate(
        self,
        prompts: list[dict[str, Any]],
        sampling_params: SamplingParams | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: list[int] | None = None,
    ) -> list[RequestOutput]:
        if self.ended:
            raise RuntimeError("the engine was shut down")
        if sampling_params is None or sampling_params.temperature != 0.0:
            raise ValueError("not greedy")
        self.calls.append((len(prompts), sampling_params))
        return [self._answer(number, prompt, sampling_params) for number, prompt in enumerate(prompts)]

    def _answer(self, number: int, prompt: dict[str, Any], greedy: SamplingParams) -> RequestOutput:
        import torch
        from transformers import CLIPImageProcessor, GenerationConfig

        unknown = prompt.keys() - {"prompt_token_ids", "multi_modal_data"}
        if unknown or not all(type(i) is int for i in prompt["prompt_token_ids"]):
            raise TypeError(f"not a tokens prompt: {prompt}")
        images = (prompt.get("multi_modal_data") or {}).get("image", [])
        if len(images) > self._limit:
            raise ValueError(f"{len(images)} images, at most {self._limit} may be provided")
        token = self._model.config.image_token_index
        if prompt["prompt_token_ids"].count(token) != len(images):
            raise ValueError("as many placeholders as images are needed")
        size = self._model.config.vision_config
        wide = (size.image_size // size.patch_size) ** 2
        ids = [i for part in prompt["prompt_token_ids"] for i in [part] * (wide if part == token else 1)]
        more = {}
        if images:
            crop = {"height": size.image_size, "width": size.image_size}
            processor = CLIPImageProcessor(size={"shortest_edge": size.image_size}, crop_size=crop)
            more["pixel_values"] = processor(images, return_tensors="pt")["pixel_values"].to(self._model.dtype)
        own = self._model.generation_config
        ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        rules = GenerationConfig(
            do_sample=False, max_new_tokens=greedy.max_tokens, pad_token_id=3, use_cache=True,
            eos_token_id=[*(greedy.stop_token_ids or []), *([] if greedy.ignore_eos else ends)],
            repetition_penalty=greedy.repetition_penalty,
        )  # fmt: skip
        mask = torch.ones(1, len(ids), dtype=torch.long)
        output = self._model.generate(
            input_ids=torch.tensor([ids]), attention_mask=mask, generation_config=rules, **more
        )
        found = output[0, len(ids) :].tolist()
        return RequestOutput(str(number), ids, [CompletionOutput(0, "", found)])

"""vLLM behind the backend interface: the merged model is written once per row, and an engine answers from it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.logs import logger
from ..generation.answers import read_answers
from . import parts
from .export import DTYPES, export_merged
from .state import RunState


if TYPE_CHECKING:
    from ..contract.carry import Carry
    from ..contract.test_item import TestItem
    from ..generation.backend import OnBatch


#: Items that the engine is given at once; it schedules them itself, and they are made durable together.
BATCH_SIZE = 2048


class VllmBackend:
    """Answers with ``vllm.LLM``.

    Args:
        state: The run; its base must be one that can be merged into, see `backend_problems`.
        carry: Which model; None for the base.
    """

    name = "vllm"
    batch_size = BATCH_SIZE
    together = False

    def __init__(self, state: RunState, carry: Carry | None) -> None:
        self._state = state
        self._carry = carry
        self._folder = state.root / "merged_for_vllm"
        self._engine: Any = None
        self._home: Any = None

    def settings(self) -> dict[str, Any]:
        """Version and options of the engine."""
        import vllm

        return {"vllm": str(getattr(vllm, "__version__", "?")), "options": self._state.config.eval.backend_options}

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`."""
        if not batches:
            return
        from vllm import SamplingParams

        session = self._state.session
        engine = self._started()
        greedy = SamplingParams(
            temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=session.eos_token_ids(), detokenize=False
        )
        for position, batch in enumerate(batches):
            prompts = [self._prompt(items[i]) for i in batch]
            outputs = engine.generate(prompts, sampling_params=greedy, use_tqdm=False)
            ids = [list(output.outputs[0].token_ids) for output in outputs]
            ends = session.eos_token_ids()
            found = read_answers(
                ids,
                session.tokenizer,
                max_new_tokens=max_new_tokens,
                eos_token_ids=ends,
                thought_words=session.template.thought_words,
            )
            on_batch(position, found)

    def close(self) -> None:
        """End the engine, delete the merged model, put the base back on its device."""
        import torch

        if self._engine is not None:
            core = getattr(getattr(self._engine, "llm_engine", None), "engine_core", None)
            if core is not None and hasattr(core, "shutdown"):
                core.shutdown()
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._home is not None:
            self._state.session.base.model.to(self._home)
            self._home = None

    def _prompt(self, item: TestItem) -> dict[str, Any]:
        """Token ids with one token per picture, and the pictures as the host hands them to engines."""
        if item.engine_tokens is None:
            raise DataError(Problem(f"item {item.id!r}", "was not prepared for an engine.", "Use `backend: host`."))
        other = [kind for kind in item.kinds if kind != "images"]
        if other:
            what = f"has {' and '.join(other)}; only pictures are handed to vLLM."
            raise DataError(Problem(f"item {item.id!r}", what, "Use `backend: host`."))
        prompt: dict[str, Any] = {"prompt_token_ids": item.engine_tokens.tolist()}
        if item.kinds:
            from ..host.test_sets import pictures

            session = self._state.session
            found = pictures(item, session.template, session.tokenizer_module["processor"])
            prompt["multi_modal_data"] = {"image": found}
        return prompt

    def _started(self) -> Any:
        if self._engine is None:
            from vllm import LLM

            state = self._state
            model = self._written()
            self._make_room()
            options: dict[str, Any] = {
                "model": str(model),
                "dtype": self._dtype(),  # vLLM's own choice for an fp32 model is fp16
                "trust_remote_code": bool(state.run_args.model.trust_remote_code),
                "seed": int(state.host_keys.get("seed", 42)),
            }
            most = state.most_pictures()
            if most:
                options["limit_mm_per_prompt"] = {"image": most}
            self._engine = LLM(**{**options, **state.config.eval.backend_options})
        return self._engine

    def _written(self) -> Path | str:
        """The folder of the merged model; the base itself before the first task."""
        state = self._state
        if self._carry is None:
            return str(state.run_args.model.model_name_or_path)
        identity = dumps([state.base_fingerprint.get("sha256"), parts.identity_of(self._carry)], sort_keys=True)
        folder = self._folder / sha256(identity.encode()).hexdigest()[:16]
        if not folder.is_dir():  # written as a whole, so it is complete if it is there
            name = next(short for short, long in DTYPES.items() if long == self._dtype())
            error = export_merged(state, self._carry, folder, name)
            logger.info("merged model for vLLM: %s", error)
        return folder

    def _dtype(self) -> str:
        """The dtype in which the base is held, by PyTorch's name."""
        dtype = self._state.session.base.model.get_input_embeddings().weight.dtype
        return str(dtype).removeprefix("torch.")

    def _make_room(self) -> None:
        """The base waits in main memory while the engine has the device."""
        import torch

        model = self._state.session.loaded_model
        if model is None:
            return
        device = next(model.parameters()).device
        if device.type != "cpu":
            self._home = device
            model.to("cpu")
            torch.cuda.empty_cache()

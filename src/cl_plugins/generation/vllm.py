"""vLLM as a backend: an engine answers from a model folder."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from ..contract.backend import OnBatch
    from ..contract.session import Session
    from ..contract.test_item import TestItem


#: Items that the engine is given at once; it schedules them itself, and they are made durable together.
BATCH_SIZE = 2048
#: Rules of a base's generation config that vLLM has as well: the name there -> the name in ``vllm.SamplingParams``.
RULES = {"repetition_penalty": "repetition_penalty"}
#: Rules that evaluation replaces with its own settings, whatever the backend.
_REPLACED = {"num_beams"}


def sampling_rules(rules: Mapping[str, Any]) -> dict[str, Any]:
    """What of a base's generation config the engine must be told.

    The model in memory follows these rules by itself. vLLM reads them from the model too, but not if it is given
    ``SamplingParams``.

    Args:
        rules: Name -> value of the rules that change greedy search, see `cl_plugins.generation.decode.GREEDY_RULES`.

    Returns:
        Arguments of ``vllm.SamplingParams``.

    Raises:
        CompatibilityError: If vLLM has no such rule.
    """
    unknown = sorted(rules.keys() - RULES.keys() - _REPLACED)
    if unknown:
        names = ", ".join(f"{name}: {rules[name]!r}" for name in unknown)
        what = f"vLLM does not follow {names} in the base's generation_config.json, and the model in memory does."
        raise CompatibilityError(Problem("cl.eval.backend", what, "Use `backend: host`."))
    return {RULES[name]: value for name, value in rules.items() if name in RULES}


class VllmBackend:
    """Answers with ``vllm.LLM``, see `cl_plugins.contract.backend.Backend`.

    Args:
        session: Makes the prompts; its base leaves the accelerator while the engine answers.
        model: Gives the folder or hub name of the model; called when the first answer is wanted.
        arguments: Gives the arguments of ``vllm.LLM`` that follow from the run.
        options: ``cl.eval.backend_options``; they win.
        rules: From `sampling_rules`.
        scratch: Folder of the models that ``model`` writes, deleted at the end.
    """

    name = "vllm"
    batch_size = BATCH_SIZE
    together = False

    def __init__(
        self,
        session: Session,
        model: Callable[[], str | Path],
        arguments: Callable[[], Mapping[str, Any]],
        options: Mapping[str, Any],
        rules: Mapping[str, Any],
        scratch: Path,
    ) -> None:
        self._session, self._model, self._arguments = session, model, arguments
        self._options, self._rules, self._scratch = dict(options), dict(rules), scratch
        self._engine: Any = None
        self._home: Any = None

    def settings(self) -> dict[str, Any]:
        """Version and options of the engine, and the tokens that end an answer."""
        return {
            "vllm": _version(),
            "options": self._options,
            "rules": self._rules,
            "eos": self._session.eos_token_ids(),
        }

    def answer(
        self, items: Sequence[TestItem], batches: Sequence[Sequence[int]], max_new_tokens: int, on_batch: OnBatch
    ) -> None:
        """See `Backend.answer`."""
        if not batches:
            return
        session = self._session
        engine = self._started()
        greedy = _library().SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=session.eos_token_ids(),
            ignore_eos=True,  # vLLM would add the tokens of the model's generation config, which the host replaces
            detokenize=False,
            **self._rules,
        )
        for position, batch in enumerate(batches):
            prompts = [session.engine_prompt(items[i]) for i in batch]
            try:
                outputs = engine.generate(prompts, sampling_params=greedy, use_tqdm=False)
            except Exception as error:  # whatever the engine raises
                raise _told("cannot answer", error) from error
            ids = [list(output.outputs[0].token_ids) for output in outputs]
            on_batch(position, session.read_answers(ids, max_new_tokens))

    def close(self) -> None:
        """End the engine, delete the model folder, put the base back on its device."""
        import torch

        if self._engine is not None:
            core = getattr(getattr(self._engine, "llm_engine", None), "engine_core", None)
            if core is not None and hasattr(core, "shutdown"):
                core.shutdown()
        self._engine = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._home is not None:
            self._session.base.model.to(self._home)
            self._home = None

    def _started(self) -> Any:
        if self._engine is None:
            library, model = _library(), str(self._model())
            self._make_room()
            try:
                self._engine = library.LLM(**{"model": model, **self._arguments(), **self._options})
            except Exception as error:  # whatever the engine raises
                raise _told(f"cannot load {model}", error) from error
        return self._engine

    def _make_room(self) -> None:
        """The base waits in main memory while the engine has the device."""
        import torch

        model = self._session.loaded_model
        if model is None:
            return
        device = next(model.parameters()).device
        if device.type != "cpu":
            self._home = device
            model.to("cpu")
            torch.cuda.empty_cache()


def _library() -> Any:
    """The package, with its log on stderr: stdout belongs to the command (``--json``)."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    import vllm

    return vllm


def _version() -> str:
    return str(getattr(_library(), "__version__", "?"))


def _told(what: str, error: Exception) -> CompatibilityError:
    """An error of vLLM in one sentence."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    fix = (
        "The messages of vLLM above say more. Correct `cl.eval.backend_options`, or use `backend: host` in a new run."
    )
    return CompatibilityError(Problem("cl.eval.backend", f"vLLM {_version()} {what} ({said}).", fix))

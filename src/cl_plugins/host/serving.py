"""Finished models in the host's chat, webchat and api: ``cl: {model: RUN/final}``.

The block is replaced by the host's own keys while a recipe is parsed. A plain model and an adapter then load as any other; a
routed one is put on its base where the host would put an adapter on, in ``init_adapter``, which every engine of the host
calls that uses Transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError
from ..base.schema import unknown_key
from .names import incompatible, missing_in


if TYPE_CHECKING:
    from ..run.final import Final


_MARK = "cl_final"
_PLACES = ("model_name_or_path", "adapter_name_or_path")
_OWN_LAYERS = ("use_unsloth", "use_kt")
_SCALARS = (bool, int, float, str)


def names_model(raw: Any) -> bool:
    """Whether arguments ask for a finished model (``cl: {model: ...}``)."""
    return isinstance(raw, Mapping) and isinstance(raw.get("cl"), Mapping) and "model" in raw["cl"]


def check_trains(block: Any) -> None:
    """Refuse ``cl: {model: ...}`` in a recipe that trains.

    Raises:
        RecipeError: If the block names a finished model.
    """
    if isinstance(block, Mapping) and "model" in block:
        what = "names a finished model, for chat, webchat and api; this command trains."
        fix = (
            "Give `stream` and `method`; to train a further task on a finished run, use `cl.carry_from` and `cl.only`."
        )
        raise RecipeError(Problem("cl.model", what, fix))


def check_places(raw: Any) -> None:
    """Refuse a routed model, or a classifier, where the host expects a plain language model or an adapter.

    Args:
        raw: Arguments as the host reads them: a mapping, or the words of a command line.

    Raises:
        RecipeError: If a key names ``final/`` of one.
    """
    problems = []
    for key, place in _places(raw):
        if _is_routed(Path(place)):
            what = (
                f"is {place}, a model that chooses its parts by itself; LLaMA-Factory cannot load it under this key."
            )
            fix = (
                f"For chat, webchat and api write `cl: {{model: {place}}}`; in Python use `cl_plugins.load`. "
                "To train a further task on it, use `cl.carry_from` with the run's directory."
            )
            problems.append(Problem(key, what, fix))
        elif _is_classifier(Path(place)):
            problems.append(_no_language_model(key, place))
    if problems:
        raise RecipeError(problems)


def _no_language_model(key: str, place: Any) -> Problem:
    what = f"is {place}, a classifier on frozen encoders; LLaMA-Factory loads language models only."
    return Problem(key, what, "Open it in Python with `cl_plugins.load`.")


def _is_classifier(folder: Path) -> bool:
    if not (folder / "MANIFEST.json").is_file():
        return False
    from ..run.final import is_classifier

    return is_classifier(folder)


def _is_routed(folder: Path) -> bool:
    """Told from the manifest alone; nothing is imported for folders without one."""
    if not (folder / "MANIFEST.json").is_file():
        return False
    from ..run.final import is_routed

    return is_routed(folder)


def _places(raw: Any) -> Iterator[tuple[str, str]]:
    """Key and path of every model and adapter that arguments name."""
    if isinstance(raw, Mapping):
        given = [(key, raw.get(key)) for key in _PLACES]
    elif isinstance(raw, Sequence) and not isinstance(raw, str):
        given = list(_of_words([str(word) for word in raw]))
    else:
        given = []
    for key, value in given:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else []
        yield from ((key, part.strip()) for part in parts if isinstance(part, str) and part.strip())


def _of_words(words: list[str]) -> Iterator[tuple[str, str]]:
    for i, word in enumerate(words):
        key, equals, value = word.lstrip("-").partition("=")
        if key in _PLACES and (equals or i + 1 < len(words)):
            yield key, value if equals else words[i + 1]


def host_keys(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Final]:
    """The host's own keys for a finished model.

    Keys of the recipe win over those that the run has noted (template, limits of pictures, quantisation).

    Args:
        raw: The recipe with ``cl: {model: ...}``.

    Returns:
        The keys without ``cl``, and the model, whose files have been compared with their hashes.

    Raises:
        RecipeError: If keys contradict the model, or ask for what a routed model cannot do.
        RunStateError: If there is no finished model, or its files are damaged.
    """
    from ..run.final import ROUTED, open_final

    block, keys = raw["cl"], {key: value for key, value in raw.items() if key != "cl"}
    problems = [unknown_key("cl", key, ("model",)) for key in block if key != "model"]
    if not isinstance(block["model"], str):
        problems.append(Problem("cl.model", f"is {block['model']!r}.", "Give the folder `final/` of a run."))
    if problems:
        raise RecipeError(problems)
    final = open_final(Path(block["model"]).expanduser())
    problems = _contradictions(keys, final)
    if _is_classifier(final.path):
        problems.append(_no_language_model("cl.model", final.path))
    if final.kind == ROUTED:
        problems += _routed_problems(keys, final)
    if problems:
        raise RecipeError(problems)
    final.verify()
    return {**_noted(final), **keys}, final


def _noted(final: Final) -> dict[str, Any]:
    """What the run has noted of its own keys, and where the model is."""
    from .keys import PROMPT_KEYS

    recorded = final.manifest.keys or {}
    noted = {k: v for k, v in recorded.items() if k in PROMPT_KEYS and isinstance(v, _SCALARS)}
    if final.manifest.dtype in ("float32", "bfloat16", "float16"):
        noted["infer_dtype"] = final.manifest.dtype
    if final.kind in ("merged", "full"):
        quantisation = ("quantization_bit", "quantization_method", "quantization_type", "double_quantization")
        noted = {key: value for key, value in noted.items() if key not in quantisation}
        return {**noted, "model_name_or_path": str(final.path)}
    noted |= {"model_name_or_path": final.base_name, "finetuning_type": "lora"}
    return {**noted, "adapter_name_or_path": str(final.path)} if final.kind == "peft" else noted


def _contradictions(keys: Mapping[str, Any], final: Final) -> list[Problem]:
    """Keys that say again, or otherwise, where the model is."""
    found = []
    if keys.get("adapter_name_or_path") is not None:
        what = "is given together with `cl.model`, which says which model answers."
        found.append(Problem("adapter_name_or_path", what, "Keep one of the two."))
    base = keys.get("model_name_or_path")
    if final.kind in ("merged", "full"):
        if base is not None and Path(str(base)) != final.path:
            what = f"is {base}, but `cl.model` is a whole model."
            found.append(Problem("model_name_or_path", what, "Remove it."))
    elif base is None and Path(final.base_name).is_absolute() and not Path(final.base_name).exists():
        what = f"belongs to the base {final.base_name}, which does not exist."
        found.append(Problem("cl.model", what, "Give its place: `model_name_or_path: PATH`."))
    return found


def _routed_problems(keys: Mapping[str, Any], final: Final) -> list[Problem]:
    """What a model that chooses its parts by itself cannot do in the host."""
    found = []
    method = final.manifest.method
    tasks = (
        f"Where tasks have separate parts, `cl-plugins export {final.path.parent} --to tasks` writes plain adapters."
    )
    if keys.get("export_dir") is not None:
        what = f"cannot be written as a plain model: '{method}' chooses its parts for every sample."
        found.append(
            Problem("export_dir", what, f"Share the folder {final.path}; `cl_plugins.load` opens it. {tasks}")
        )
    engine = str(keys.get("infer_backend", "huggingface"))
    if engine != "huggingface":
        what = f"is {engine!r}, which cannot let '{method}' choose its parts for every sample."
        found.append(Problem("infer_backend", what, f"Use `infer_backend: huggingface`. {tasks}"))
    for key in _OWN_LAYERS:
        if keys.get(key):
            found.append(Problem(key, "puts its own layers in place of those of the model.", "Remove it."))
    return found


def attach(parsed: Any, final: Final) -> None:
    """Let the model that the host loads with parsed arguments be a finished model.

    Args:
        parsed: The host's arguments, model arguments first.
        final: The model.

    Raises:
        RunStateError: If the base is another one than the run's.
        CompatibilityError: If the function of the host that puts adapters on has moved.
    """
    from ..run.final import ROUTED
    from .fingerprint import base_fingerprint

    model_args = parsed[0]
    if final.kind in ("peft", ROUTED):
        final.check_base(base_fingerprint(model_args))
    if final.kind == ROUTED:
        from llamafactory.model import loader

        absent = missing_in(loader)
        if absent:
            raise incompatible(absent)
        if getattr(loader.init_adapter, "__cl_plugins__", False) is False:
            loader.init_adapter = _putting_on(loader.init_adapter)
        setattr(model_args, _MARK, final)


def _putting_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """The host's ``init_adapter``, except for arguments of `attach`."""

    @functools.wraps(original)
    def init_adapter(config: Any, model: Any, model_args: Any, *rest: Any, **kwargs: Any) -> Any:
        final = getattr(model_args, _MARK, None)
        if final is None:
            return original(config, model, model_args, *rest, **kwargs)
        from ..run.final import put_on

        return put_on(final, model)

    init_adapter.__cl_plugins__ = True  # type: ignore[attr-defined]
    return init_adapter

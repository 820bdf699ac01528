"""``cl_plugins.load``: the model of a finished run, opened with Transformers; LLaMA-Factory is not needed for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .base.errors import Problem, RecipeError, RunStateError
from .generation.generate import set_to_answer
from .host.fingerprint import base_fingerprint
from .run.card import auto_class
from .run.final import ROUTED, Final, compute_in, is_classifier, open_final, put_on


def load(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Open the model of a finished run.

    Args:
        folder: The run's directory, its ``final/``, or a folder that ``cl-plugins export`` has written.
        base: Where the base is, if not where the run found it. It must be the same one: its fingerprint is compared.
        trust_remote_code: Whether code that comes with the base may be run. Code in ``folder`` is never run.
        **options: For ``from_pretrained`` of the base, for example ``device_map`` or ``attn_implementation``.

    Returns:
        The Transformers model that answers as the last row of the run did (a `peft.PeftModel` where ``final/`` is an adapter),
        in evaluation mode. Where the task decides which model answers (`mslora_cr`), it is that of the last task.

    Raises:
        RunStateError: If there is no finished model, a file differs from its hash, or the base is another one.
        RecipeError: If the method is not installed, or the base is not there.
    """
    final = open_final(folder)
    final.verify()
    whole = final.kind in ("merged", "full")
    if whole and base is not None:
        what = "is given, but the folder holds a whole model."
        raise RecipeError(Problem("base", what, "Leave it out."))
    if whole and is_classifier(final.path):
        from .crossmodal.model import CrossModalClassifier

        return CrossModalClassifier.from_pretrained(str(final.path), **options).requires_grad_(False).eval()
    if whole:
        model = _pretrained(str(final.path), trust_remote_code, {"dtype": _dtype(final), **options})
        return _answering(final, model, model)
    place = _base(final, base, options)
    if final.manifest.quantization is not None:
        options = {"quantization_config": final.manifest.quantization, **options}
    model = _pretrained(place, trust_remote_code, {"dtype": _dtype(final), **options})
    if final.kind == ROUTED:
        set_to_answer(model)
        return put_on(final, model)
    from peft import PeftModel

    return _answering(final, PeftModel.from_pretrained(model, str(final.path)), model)


def _base(final: Final, given: str | Path | None, options: dict[str, Any]) -> str:
    """Folder or hub name of the base, compared with the recorded one; the recorded commit is loaded from a hub."""
    name = final.base_name if given is None else str(given)
    if given is None and Path(name).is_absolute() and not Path(name).exists():
        what = f"belongs to the base {name}, which does not exist."
        raise RecipeError(Problem(str(final.path), what, "Give its place: `base=PATH`."))
    commit = final.manifest.base.get("commit")
    if given is None and commit is not None and not Path(name).exists():
        options.setdefault("revision", commit)
    place = SimpleNamespace(
        model_name_or_path=name,
        cache_dir=options.get("cache_dir"),
        model_revision=options.get("revision", "main"),
    )
    final.check_base(base_fingerprint(place))
    return name


def _dtype(final: Final) -> str:
    return final.manifest.dtype or "auto"


def _pretrained(place: str, trust: bool, options: dict[str, Any]) -> Any:
    """The model by the class that its config asks for, as the host chooses it."""
    from transformers import AutoConfig

    hub = {key: options[key] for key in ("cache_dir", "revision", "token") if key in options}
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=trust, **hub)
        return auto_class(config).from_pretrained(place, trust_remote_code=trust, use_safetensors=True, **options)
    except ValueError as error:
        if trust or "trust_remote_code" not in str(error):
            raise
        what = f"is a model with its own code ({place}), which is not run."
        fix = "Read that code; if you trust it, pass `trust_remote_code=True`."
        raise RunStateError(Problem("trust_remote_code", what, fix)) from error


def _answering(final: Final, model: Any, inner: Any) -> Any:
    if final.manifest.autocast is not None and final.kind != "merged":
        compute_in(inner, final.manifest.autocast)
    set_to_answer(inner)
    return model.requires_grad_(False).eval()

"""How ``cl`` becomes a key of a LLaMA-Factory recipe, and where a recipe that cannot be carried out is refused.

`DataArguments` in the host's lists of argument classes is replaced by a subclass with one more field. The host's
private parse functions are wrapped: they see the arguments before anything is loaded and before the host's own checks,
so everything that is wrong with a recipe is reported there at once. A recipe without ``cl`` passes through and comes
back as a plain `DataArguments`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import CompatibilityError, Problem, RecipeError
from ..base.excepthook import brief_errors
from ..contract.host import ENCODERS, has_encoders
from . import names, serving, validation
from .quiet import once, quieten


if TYPE_CHECKING:
    from ..config import Recipe


_HELP = (
    "Continual learning (cl_plugins): a mapping with at least `stream` and `method`. "
    "It makes this recipe train a stream of tasks. Only in a YAML or JSON recipe."
)
_LISTS = ("_TRAIN_ARGS", "_INFER_ARGS", "_TRAIN_MCA_ARGS")
_CLASS = "ContinualDataArguments"
_CL_OPTION = re.compile(r"--cl(?=$|[.=])")
_CL_OVERRIDE = re.compile(r"cl(\.[^=\s]+)?=")


def __getattr__(name: str) -> Any:
    """Build the argument class on first use, so that unpickling works in a process that has not parsed a recipe."""
    if name != _CLASS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llamafactory.hparams.data_args import DataArguments

    return globals().get(_CLASS) or _class_for(DataArguments)


def install(module: ModuleType) -> None:
    """Make ``cl`` a key of recipes. Idempotent.

    Args:
        module: The host module that has been imported: ``llamafactory.hparams.parser`` or its package.
    """
    is_parser = module.__name__ == names.PARSER
    if is_parser:
        _wrap(module, "read_args", _read_args, everywhere=True)
        _wrap(module, "get_ray_args", functools.partial(_ray_parse, module), everywhere=True)
    if is_parser and not names.missing_in(module) and _extend_lists(module):
        _wrap(module, "_parse_train_args", functools.partial(_training_parse, module, False))
        _wrap(module, "_parse_train_mca_args", functools.partial(_training_parse, module, True))
        _wrap(module, "_parse_infer_args", functools.partial(_inference_parse, module))
        _wrap(module, "_parse_eval_args", functools.partial(_refusing_parse, module, "eval"))
        _wrap(module, "get_train_args", functools.partial(_quiet_entry, module), everywhere=True)
    elif is_parser or not _is_extended(sys.modules.get(names.PARSER)):
        # Names have moved: the entries of the host are guarded, so that `cl` gives our error and not that of an
        # unknown key.
        for entry in ("get_train_args", "get_infer_args"):
            _wrap(module, entry, functools.partial(_guard, module), everywhere=True)


def plain(value: Any) -> Any:
    """A deep copy in which every mapping is a dict and every sequence a list (OmegaConf's containers included)."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [plain(item) for item in value]
    return value


def uses_cl(raw: Any) -> bool:
    """Whether arguments as the host reads them (a mapping, or the words of a command line) ask for ``cl``."""
    if isinstance(raw, Mapping):
        return any(key == "cl" or str(key).startswith("cl.") for key in raw)
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        return False
    words = [str(word) for word in raw]
    for i, word in enumerate(words):
        is_value = i > 0 and words[i - 1].startswith("-") and "=" not in words[i - 1]
        if _CL_OPTION.match(word) or (_CL_OVERRIDE.match(word) and not is_value):
            return True
    return False


def _read_args(original: Callable[..., Any], args: Any = None) -> Any:
    """The host's reader of recipes; it opens a recipe in JSON in a way that always fails, so that is done here."""
    if args is not None or len(sys.argv) < 2 or not sys.argv[1].endswith(".json"):
        try:
            return original(args)
        except TypeError as error:  # of OmegaConf, where a word is no value of the recipe's key
            words = [word for word in sys.argv[2:] if _CL_OVERRIDE.match(word)] if args is None else []
            if not words:
                raise
            what = f"{', '.join(words)}: cannot be set from the shell ({error})."
            fix = (
                "Entries of lists cannot: write them in the YAML, or use a key such as `cl.task_overrides.TASK.KEY=`."
            )
            raise RecipeError(Problem("the command line", what, fix)) from error
    from omegaconf import OmegaConf

    path = Path(sys.argv[1]).absolute()
    try:
        recipe = OmegaConf.create(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RecipeError(Problem(str(path), f"is no recipe in JSON ({error}).", "Correct the file.")) from error
    return OmegaConf.to_container(OmegaConf.merge(recipe, OmegaConf.from_cli(sys.argv[2:])))


def _training_parse(
    module: ModuleType, megatron: bool, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    raw = module.read_args(args)
    if uses_cl(raw):
        brief_errors()
    serving.check_places(raw)
    if not uses_cl(raw):
        return _without_field(original(raw, *rest, **kwargs))
    if isinstance(raw, Mapping) and has_encoders(raw):
        what = "takes the place of a language model, and LLaMA-Factory trains language models only."
        raise RecipeError(Problem(ENCODERS, what, "Start this recipe with `cl-plugins run`."))
    names.require()
    if not isinstance(raw, Mapping):
        raise RecipeError(_not_on_a_command_line())
    serving.check_trains(raw["cl"] if "cl" in raw else None)
    recipe = _checked(plain(raw), megatron)
    from .dispatch import ensure

    ensure()
    # The host trains nothing without a `dataset`; a recipe with `cl` has none of its own.
    own = {"dataset": ",".join(recipe.config.first_datasets), "cl": plain(raw["cl"])}
    keys = validation.with_sets(plain(recipe.host_keys), ())  # the tasks name the validation sets, too
    parsed = original({**keys, **own}, *rest, **kwargs)
    for item in parsed:
        if hasattr(type(item), "__cl_plugins_base__"):
            item.cl_recipe = recipe
    return parsed


def _ray_parse(module: ModuleType, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any) -> Any:
    """Check a recipe before Ray starts: the host parses it in Ray's workers only, after it has waited for them."""
    found = original(args, *rest, **kwargs)
    if getattr(found, "use_ray", False):
        raw = module.read_args(args)
        if uses_cl(raw) and isinstance(raw, Mapping):
            brief_errors()
            _checked(plain(raw), False)
    return found


def _checked(raw: Mapping[str, Any], megatron: bool) -> Recipe:
    """The one parse of a recipe with ``cl``; under a launcher, one process checks the data files for all."""
    from ..run.check import check
    from .llama_factory import LlamaFactoryHost

    if megatron:
        what = "is the parser of Megatron, which has its own trainer."
        raise RecipeError(Problem("USE_MCA", what, "Unset the variable USE_MCA."))
    return check(LlamaFactoryHost(), raw, data=ranks.is_main())


def _inference_parse(
    module: ModuleType, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    """Arguments of chat, webchat, api and export; ``cl: {model: RUN/final}`` becomes the host's own keys."""
    raw = module.read_args(args)
    if uses_cl(raw):
        brief_errors()
    if not serving.names_model(raw):
        return _refusing_parse(module, "export, chat and api", original, raw, *rest, **kwargs)
    keys, final = serving.host_keys(plain(raw))
    serving.check_places(keys)
    parsed = _without_field(original(keys, *rest, **kwargs))
    serving.attach(parsed, final)
    return parsed


def _refusing_parse(
    module: ModuleType, command: str, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any
) -> Any:
    raw = module.read_args(args)
    serving.check_places(raw)
    if not uses_cl(raw):
        return _without_field(original(raw, *rest, **kwargs))
    run = raw.get("output_dir") if isinstance(raw, Mapping) else None
    final = os.path.join(str(run or "OUTPUT_DIR"), "final")
    what = f"has no meaning for {command}: these commands use a finished model and train no stream."
    fix = (
        f"Remove the cl block and point model_name_or_path at {final} "
        "(where MANIFEST.json calls it an adapter: keep the recipe's model_name_or_path and "
        "point adapter_name_or_path at it)."
    )
    raise RecipeError(Problem("cl", what, fix))


def _quiet_entry(module: ModuleType, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any) -> Any:
    """The host logs what it thinks of a recipe after the parse; the run that follows does not repeat it (`quiet.once`)."""
    if not uses_cl(module.read_args(args)):
        return original(args, *rest, **kwargs)
    with once() as shown:
        parsed = original(args, *rest, **kwargs)
    quieten()
    for item in parsed:
        if hasattr(item, "cl_recipe"):
            item.cl_shown = shown
    return parsed


def _guard(module: ModuleType, original: Callable[..., Any], args: Any = None, *rest: Any, **kwargs: Any) -> Any:
    """The entry of a host that is not supported: as it was, except that ``cl`` raises the error."""
    reader = getattr(module, "read_args", None)
    raw = reader(args) if reader is not None else args
    if uses_cl(raw):
        raise _moved()
    try:
        return original(args, *rest, **kwargs)
    except ValueError as error:
        if reader is None and re.search(r"['\"](--)?cl['\".=]", str(error)):  # the unknown-key error of the host
            raise _moved() from error
        raise


def _moved() -> CompatibilityError:
    fallback = names.HostName(names.PARSER, "_TRAIN_ARGS[DataArguments]", "makes `cl` a key of training recipes")
    return names.incompatible(names.missing(load=True) or [fallback])


def _not_on_a_command_line() -> Problem:
    return Problem(
        "cl",
        "cannot be given among command-line options.",
        "Put the `cl:` block into a YAML and run `llamafactory-cli train recipe.yaml`; "
        "single values can then be set on the command line after the YAML, as in `cl.method.name=NAME`.",
    )


def _extend_lists(module: ModuleType) -> bool:
    """Put the subclass in place of `DataArguments`; whether it is now in both lists."""
    base = module.DataArguments
    done = {}
    for name in _LISTS:
        classes = getattr(module, name, None)
        if not isinstance(classes, list):
            continue
        for i, cls in enumerate(classes):
            if cls is base:
                classes[i] = _class_for(base)  # in place: others may hold the list
        done[name] = any(getattr(cls, "__cl_plugins_base__", None) is base for cls in classes)
    return done.get("_TRAIN_ARGS", False) and done.get("_INFER_ARGS", False)


def _is_extended(parser: ModuleType | None) -> bool:
    return bool(getattr(getattr(parser, "_parse_train_args", None), "__cl_plugins__", False))


def _class_for(base: type) -> type:
    """The subclass of the host's `DataArguments` with the field ``cl``; the same one for the same base."""
    known: type | None = globals().get(_CLASS)
    if known is not None and getattr(known, "__cl_plugins_base__", None) is base:
        return known

    field: Any = dataclasses.field(default=None, metadata={"help": _HELP})
    cls = dataclasses.make_dataclass(
        _CLASS,
        [("cl", dict | None, field)],
        bases=(base,),
        namespace={"__cl_plugins_base__": base, "__doc__": base.__doc__},
    )
    cls.__module__, cls.__qualname__ = __name__, _CLASS  # pickled by name
    globals()[_CLASS] = cls
    return cls


def _without_field(parsed: Any) -> Any:
    """Turn the subclass back into the host's own class: without ``cl`` the host works as before."""
    for item in parsed:
        base = getattr(type(item), "__cl_plugins_base__", None)
        if base is not None:
            vars(item).pop("cl", None)
            item.__class__ = base
    return parsed


def _wrap(module: ModuleType, name: str, handler: Callable[..., Any], *, everywhere: bool = False) -> None:
    """Replace a function of ``module`` by ``handler(original, ...)``; leave it alone if absent or already replaced."""
    original = getattr(module, name, None)
    if not callable(original) or getattr(original, "__cl_plugins__", False):
        return

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return handler(original, *args, **kwargs)

    wrapper.__cl_plugins__ = True  # type: ignore[attr-defined]
    setattr(module, name, wrapper)
    if everywhere:
        from .activation import rebind

        rebind(name, original, wrapper)

"""``README.md`` of ``final/`` and of exports: a model card, as the Hugging Face hub reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ClPluginsError
from ..contract.host import CHAT_DIFFERENCES, ENCODERS
from ..evaluation.drift import Drifts
from ..evaluation.matrix import AccuracyMatrix
from ..evaluation.metrics import continual_metrics
from ..evaluation.results import read_results
from ..records.results import JOINT, ZERO_SHOT, MetricsRecord, row_name
from ..records.run import read_run
from . import card_scores, classifier_card, record
from .base_card import README, base_licence, is_local, plain


if TYPE_CHECKING:
    from .state import RunState


_METRICS = {"last": "Last", "average": "Average", "bwt": "BWT", "forgetting": "Forgetting", "fwt": "FWT"}
_QUESTION = "What does this show?"
#: The host's name of a run that a script has made with its own trainer.
TRAINED_BY_SCRIPT = "Transformers"


@dataclass(frozen=True)
class Facts:
    """What a card says beside the manifest.

    Attributes:
        auto_class: The class of Transformers that loads the base, e.g. ``AutoModelForCausalLM``.
        matrix: The accuracy matrix; None where nothing was measured.
        notes: What the stream and the method want every reader to know.
        probes: What the probes have measured.
        host: Name and version of the host.
        routers: Whether the model's config asks for the logits of the routers of a mixture of experts.
        modalities: Of a classifier on frozen encoders: name of a modality -> its entry in the recipe.
    """

    auto_class: str = "AutoModelForCausalLM"
    matrix: AccuracyMatrix | None = None
    notes: tuple[str, ...] = ()
    host: str = ""
    routers: bool = False
    modalities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    probes: Drifts = field(default_factory=dict)

    @property
    def pictures(self) -> bool:
        """Whether the model takes pictures."""
        return self.auto_class == "AutoModelForImageTextToText"


def facts_of(state: RunState) -> Facts:
    """What a card says of a run, or of the run that an export is made from."""
    matrix, root = None, state.source or state.root
    probes: Drifts = {}
    origin: list[str] = []
    with suppress(ClPluginsError, OSError):
        origin = record.origin(read_run(root).get("imported"))
    try:
        if state.source is not None:  # a long run that was stopped has cells that its matrix waits for
            results = read_results(root)
            matrix, probes = results.matrix, results.probes
        else:
            matrix = AccuracyMatrix.read(root / "matrix.json")
            probes = dict(MetricsRecord.read(root / "metrics.json").probes)
    except (ClPluginsError, OSError):  # nothing measured, or results that `report` complains about
        pass
    config = state.session.base.model.config
    texts = getattr(config, "text_config", None) or config
    return Facts(
        auto_class=auto_class(config).__name__,
        matrix=matrix,
        notes=(*state.config.stream.notes, *state.method.notes(), *origin),
        host=state.host.name,
        routers=bool(getattr(texts, "output_router_logits", False)),
        modalities=state.host_keys.get(ENCODERS) or {},
        probes=probes,
    )


def auto_class(config: Any) -> Any:
    """The class of Transformers that loads a model, as the host chooses it.

    Args:
        config: The model's config.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    for auto in (AutoModelForImageTextToText, AutoModelForSeq2SeqLM):
        if type(config) in auto._model_mapping:
            return auto
    return AutoModelForCausalLM


def write_card(folder: Path, about: Mapping[str, Any], facts: Facts) -> None:
    """Write ``README.md``.

    Args:
        folder: The folder of the model.
        about: The content of its ``MANIFEST.json``.
        facts: What else is known.
    """
    (folder / README).write_text(card(folder, about, facts), encoding="utf-8")


def card(folder: Path, about: Mapping[str, Any], facts: Facts) -> str:
    """The text of a model card; see `write_card`."""
    from huggingface_hub import ModelCard

    base = str(about["base"].get("name", ""))
    licence = {} if facts.modalities else base_licence(base)
    parts = [
        f"# {plain(about['method'])} on {plain(about['stream'])}",
        _intro(about, base, facts),
        "## Use",
        classifier_card.use(facts.modalities) if facts.modalities else _use(folder, about, base, facts),
        *_inputs(folder, about, facts),
        "## Results",
        _results(about, facts),
        "## Training",
        _training(about, facts),
        "## Licence",
        classifier_card.licence(facts.modalities) if facts.modalities else _licence_text(base, licence),
    ]
    data = _data(about, base, licence, facts)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _data(about: Mapping[str, Any], base: str, licence: Mapping[str, Any], facts: Facts) -> Any:
    """The card's metadata, by the classes of the hub's library."""
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = "image-text-to-text" if facts.pictures else "text-generation"
    kind, parts = about["kind"], classifier_card.pretrained(facts.modalities)
    origin = parts if facts.modalities else None if is_local(base) else base
    results = [
        EvalResult(
            task_type="other" if facts.modalities else pipeline,
            dataset_type=task,
            dataset_name=task,
            metric_type=scorer.partition("@")[0],
            metric_name=scorer,
            metric_value=round(score, 2),
        )
        for task, scorer, score in _final_scores(about, facts.matrix)
    ]
    return ModelCardData(
        model_name=plain(f"{about['method']} on {about['stream']}"),
        base_model=origin or None,
        base_model_relation=None if not origin else "adapter" if kind in ("peft", "tasks") else "finetune",
        library_name="cl_plugins"
        if facts.modalities
        else {"peft": "peft", "tasks": "peft", "routed": "cl_plugins"}.get(kind, "transformers"),
        pipeline_tag=None if facts.modalities else pipeline,
        tags=[
            "cl_plugins",
            *(["llama-factory"] if not facts.modalities and facts.host != TRAINED_BY_SCRIPT else []),
            "continual-learning",
            str(about["method"]),
        ],
        eval_results=results or None,
        **licence,
    )


def _intro(about: Mapping[str, Any], base: str, facts: Facts) -> str:
    tasks = " → ".join(plain(task) for task in about["tasks"])
    if facts.modalities:
        return (
            f"A classifier over {', '.join(plain(name) for name in sorted(facts.modalities))}, on frozen encoders. It was "
            f"trained on the tasks {tasks}, one after the other, with the continual-learning method `{about['method']}` of "
            f"cl_plugins. Base: {plain(base)} (fingerprint `{str(about['base'].get('sha256'))[:16]}`)."
        )
    what = {
        "merged": "A plain model: the weights of the base plus all updates.",
        "full": "A plain model.",
        "peft": "A PEFT adapter for the base.",
        "routed": "What the method needs to choose its parts for every sample, for the base.",
        "tasks": "One PEFT adapter per task, for the base.",
    }[about["kind"]]
    host = facts.host if facts.host == TRAINED_BY_SCRIPT else "LLaMA-Factory"
    return (
        f"{what} It was trained on the tasks {tasks}, one after the other, with the continual-learning method "
        f"`{about['method']}` of cl_plugins and {host}. Base: `{base}` "
        f"(fingerprint `{str(about['base'].get('sha256'))[:16]}`)."
    )


def _use(folder: Path, about: Mapping[str, Any], base: str, facts: Facts) -> str:
    """Code that opens the model; a test runs it."""
    kind, reader, origin = about["kind"], "AutoProcessor" if facts.pictures else "AutoTokenizer", ""
    if kind in ("peft", "tasks"):
        dtype = about.get("dtype") or "auto"
        own = about.get("base_folder")
        origin = f'folder + "/{own}"' if own else repr(base).replace("'", '"')
        load = [f'base = {facts.auto_class}.from_pretrained({origin}, dtype="{dtype}")']
        adapter = f'folder + "/{about["adapters"][-1]["folder"]}"' if kind == "tasks" else "folder"
        load.append(f"model = PeftModel.from_pretrained(base, {adapter})")
        imports = ["from peft import PeftModel", f"from transformers import {facts.auto_class}, {reader}"]
    elif kind == "routed":
        load = ["model = cl_plugins.load(folder)"]
        imports = ["import cl_plugins", f"from transformers import {reader}"]
    else:
        load = [f"model = {facts.auto_class}.from_pretrained(folder)"]
        imports = [f"from transformers import {facts.auto_class}, {reader}"]
    if facts.routers and kind != "routed":
        load.append(
            "model.config.get_text_config().output_router_logits = False  # Transformers cannot generate with them"
        )
    chats = facts.host != TRAINED_BY_SCRIPT or (folder / "chat_template.jinja").is_file()
    content = f'[{{"type": "text", "text": "{_QUESTION}"}}]'
    code = [
        *imports,
        "",
        'folder = "."  # the folder of this file'
        + (", or its name on the hub" if kind in ("merged", "full", "peft") else ""),
        *load,
        f"reader = {reader}.from_pretrained(folder)",
        *(
            [
                f'chat = [{{"role": "user", "content": {content}}}]',
                "prompt = reader.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)",
                'inputs = reader(text=prompt, add_special_tokens=False, return_tensors="pt")',
            ]
            if chats
            else [f'inputs = reader(text="{_QUESTION}", return_tensors="pt")']
        ),
        "answer = model.generate(**inputs, do_sample=False, max_new_tokens=16)",
        'print(reader.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    told = []
    if kind == "tasks":
        answers = all(part["answers"] for part in about["adapters"])
        told.append(
            "Each adapter, alone on the base, answers its task."
            if answers
            else "Each adapter is the update of one task, a part of the model: their sum on the base is the model."
        )
    elif kind != "routed":
        told.append(
            "`cl_plugins.load(folder)` opens it as well, and compares every file and the base with the recorded hashes first."
        )
    if about.get("autocast"):
        told.append(f"The run answered under autocast in {about['autocast']}; `cl_plugins.load` does the same.")
    if about.get("quantization"):
        told.append("The base was quantised in the run (see MANIFEST.json); `cl_plugins.load` quantises it alike.")
    return "\n\n".join(["```python\n" + "\n".join(code) + "\n```", *told])


def _inputs(folder: Path, about: Mapping[str, Any], facts: Facts) -> tuple[str, str]:
    """What the model takes: prompts, or samples of several modalities."""
    if not facts.modalities:
        return "## Prompts", _prompts(folder, about, facts)
    return "## Inputs", classifier_card.inputs(facts.modalities)


def _prompts(folder: Path, about: Mapping[str, Any], facts: Facts) -> str:
    keys = about.get("keys") or {}
    if facts.host == TRAINED_BY_SCRIPT:
        lines = [
            "The script that trained the model wrote the prompts. Tokenizer or processor are those of the script."
        ]
        example = _example(folder, facts.pictures)
        return "\n\n".join([*lines, *([_fenced(example)] if example is not None else [])])
    lines = [
        f"LLaMA-Factory's template `{plain(keys.get('template') or 'that of the tokenizer')}`, as in the chat template "
        "of the tokenizer; it takes contents that are texts or lists of parts."
    ]
    differing = _differing(folder)
    if differing:
        lines.append(
            f"**This chat template gives other token ids than the run has asked with for {plain(differing)}.**"
        )
    example = _example(folder, facts.pictures)
    if example is not None:
        lines.append(_fenced(example))
    return "\n\n".join(lines)


def _differing(folder: Path) -> str:
    """What the folder's chat template says of its differences; empty if it gives the prompts of the run."""
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.match(r"\{# " + re.escape(CHAT_DIFFERENCES) + r"(.*?) #\}", text, re.DOTALL)
    return found[1] if found else ""


def _fenced(example: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", example)), default=0))
    return f"{fence}text\n{example}\n{fence}"


def _example(folder: Path, pictures: bool) -> str | None:
    """One rendered prompt; None where the folder has no chat template."""
    path = folder / "chat_template.jinja"
    if not path.is_file():
        return None
    from transformers.utils.chat_template_utils import render_jinja_template

    parts = [*([{"type": "image"}] if pictures else []), {"type": "text", "text": _QUESTION}]
    try:
        rendered: Any = render_jinja_template(
            conversations=[[{"role": "user", "content": parts}]],
            chat_template=path.read_text(encoding="utf-8"),
            add_generation_prompt=True,
        )
    except Exception:  # the base's own template, which may need more than messages
        return None
    return str(rendered[0][0])


def _final_scores(about: Mapping[str, Any], matrix: AccuracyMatrix | None) -> list[tuple[str, str, float]]:
    """Task, scorer and score of the row of this model."""
    if matrix is None or not about["tasks"]:
        return []
    names = matrix.row_names()
    row = JOINT if names == [JOINT] else row_name(about["tasks"][-1])
    if row not in names:
        return []
    cells = ((task, matrix.get(row, task)) for task in matrix.tasks)
    return [(task, matrix.scorers.get(task, "score"), score) for task, score in cells if score is not None]


def _results(about: Mapping[str, Any], facts: Facts) -> str:
    matrix = facts.matrix
    known = [] if matrix is None else [r for r in matrix.row_names()[: len(matrix.scores)] if _belongs(r, about)]
    if matrix is None or not any(matrix.get(row, task) is not None for row in known for task in matrix.tasks):
        return "Nothing was measured."
    parts = [*card_scores.table(matrix, known)]
    if len(known) == len(matrix.row_names()):
        found = continual_metrics(matrix)
        words = [
            f"{label} {found[key].value:.2f}"
            for key, label in _METRICS.items()
            if key in found and found[key].value is not None
        ]
        if words:
            parts.append(", ".join(words) + ".")
    if lines := _probe_lines(about, facts.probes):
        parts.append("Probes outside of the stream, before the first task and with this model:")
        parts.append("\n".join(lines))
    parts += [f"- {plain(note)}" for note in facts.notes]
    return "\n\n".join(parts)


def _probe_lines(about: Mapping[str, Any], probes: Drifts) -> list[str]:
    """The probes as they stand for this model; nothing where none was measured with it."""
    lines = []
    for name, probe in probes.items():
        rows = [row for row in probe.rows if row != ZERO_SHOT and _belongs(row, about)]
        if not rows:
            continue
        before, part = probe.rows.get(ZERO_SHOT), probe.rows[rows[-1]]
        start = f"{before.score:.2f}" if before is not None else ""
        change = f"{part.difference:+.2f}" if part.difference is not None else ""
        if part.difference_interval is not None:
            change += f" [{part.difference_interval[0]:.1f}, {part.difference_interval[1]:.1f}]"
        lines.append(f"| {plain(name)} ({plain(probe.scorer)}) | {start} | {part.score:.2f} | {change} |")
    head = ["| probe | zero-shot | now | difference |", "| --- | ---: | ---: | ---: |"]
    return [*head, *lines] if lines else []


def _belongs(row: str, about: Mapping[str, Any]) -> bool:
    return row == JOINT or row in {row_name(task) for task in about["tasks"]}


def _training(about: Mapping[str, Any], facts: Facts) -> str:
    options = ", ".join(f"{plain(key)}: {plain(value)}" for key, value in (about.get("options") or {}).items())
    lines = [f"- method `{about['method']}`" + (f" with {options}" if options else "")]
    lora = about.get("lora") or {}
    if lora:
        lines.append(f"- LoRA of rank {lora.get('r')}, alpha {lora.get('lora_alpha')}")
    lines.append(f"- cl_plugins {about['cl_plugins']}" + (f", {plain(facts.host)}" if facts.host else ""))
    return "\n".join(lines)


def _licence_text(base: str, licence: Mapping[str, str]) -> str:
    if not licence:
        return "The card of the base states no licence here. The terms of the base and of the training data apply."
    name = licence.get("license_name") or licence.get("license") or ""
    link = f" ({plain(licence['license_link'])})" if "license_link" in licence else ""
    return f"Licence of the base: {plain(name)}{link}. The terms of the training data apply as well."

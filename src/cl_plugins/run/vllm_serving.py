"""What vLLM asks of an export, and the command that serves it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..base.errors import ExportError, Problem
from ..records.carry import ModelManifest


#: Values of ``--max-lora-rank`` (``MaxLoRARanks`` in ``vllm/config/lora.py``, from 0.11 to 0.32; newer ones have 1 as well).
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_LANGUAGE = ("model.language_model.", "lm_head")


def check_adapter(model: Any, ranks: dict[str, int], out: Path) -> None:
    """Refuse an adapter that vLLM would not apply as it is.

    vLLM leaves LoRAs outside of the language model out without an error.

    Args:
        model: The base.
        ranks: Module name -> rank.
        out: For messages.

    Raises:
        ExportError: If a module is outside of the language model, or a rank is above the largest that vLLM takes.
    """
    outside = _outside(model, ranks)
    if outside:
        what = f"has LoRAs outside of the language model ({', '.join(outside)}), and vLLM leaves these out."
        raise ExportError(Problem(str(out), what, "Use `--to merged`, or serve the adapters with PEFT."))
    if max(ranks.values()) > RANKS[-1]:
        what = f"has a LoRA of rank {max(ranks.values())}, and vLLM takes ranks up to {RANKS[-1]}."
        raise ExportError(Problem(str(out), what, "Use `--to merged`, or serve the adapter with PEFT."))


def _outside(model: Any, names: Iterable[str]) -> list[str]:
    """Parts of a model with several modalities that have LoRAs, except the language model."""
    if not any(name == "model.language_model" for name, _ in model.named_modules()):
        return []  # a model of texts
    outside = (name for name in names if not name.startswith(_LANGUAGE))
    return sorted({".".join(name.split(".")[:2]) for name in outside})


def serve_command(out: Path) -> list[list[str]]:
    """The command that serves an export with adapters, in lines of words.

    Args:
        out: A folder that ``cl-plugins export --vllm`` has written.

    Returns:
        The command; the first line has the program and the base.
    """
    about = ModelManifest.read(out / "MANIFEST.json")
    own = about.base_folder is not None
    base = os.path.join(out, about.base_folder) if about.base_folder is not None else str(about.base.get("name"))
    parts = about.adapters or []
    folders = {part.task: out / part.folder for part in parts} if parts else {out.resolve().name: out}
    lines = [["vllm", "serve", base]]
    if not own and (out / "chat_template.jinja").is_file():  # a base of the run's own has the template in its folder
        lines.append(["--chat-template", str(out / "chat_template.jinja")])
    if about.dtype == "float32":  # by default vLLM computes in half precision
        lines.append(["--dtype", "float32"])
    largest = max(_rank(folder) for folder in folders.values())
    lines.append(["--enable-lora", "--max-lora-rank", str(next(rank for rank in RANKS if rank >= largest))])
    if len(folders) > 1:
        lines.append(["--max-loras", str(len(folders))])
    return [*lines, ["--lora-modules", *(f"{name}={folder}" for name, folder in folders.items())]]


def _rank(folder: Path) -> int:
    """The largest rank of an adapter."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return max([int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())])

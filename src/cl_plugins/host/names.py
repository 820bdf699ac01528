"""What of LLaMA-Factory the package builds on, and the one error for a LLaMA-Factory where it has moved.

Most of these names are not a public interface, so each is listed with its purpose and looked up before ``cl`` is
carried out. Nothing is checked, and nothing can break, for a user who does not write ``cl``.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType

from ..base.errors import CompatibilityError, Problem


SUPPORTED_VERSIONS: tuple[str, ...] = ("0.9.5",)
PARSER = "llamafactory.hparams.parser"


@dataclass(frozen=True)
class HostName:
    """One name of LLaMA-Factory that the package uses.

    Attributes:
        module: The module that holds it.
        name: The name in that module.
        purpose: What the package does with it.
    """

    module: str
    name: str
    purpose: str

    def __str__(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


NAMES: tuple[HostName, ...] = (
    HostName(PARSER, "_TRAIN_ARGS", "makes `cl` a key of training recipes"),
    HostName(PARSER, "_INFER_ARGS", "recognises `cl` in export, chat and api recipes"),
    HostName(PARSER, "_parse_train_args", "checks the recipe before anything loads"),
    HostName(PARSER, "_parse_infer_args", "refuses `cl` where no stream can run"),
    HostName(PARSER, "read_args", "reads the recipe and the overrides of the command line"),
    HostName(PARSER, "get_train_args", "turns each task's keys into the host's arguments"),
    HostName(PARSER, "ModelArguments", "names the model keys"),
    HostName(PARSER, "DataArguments", "names the data keys and carries `cl`"),
    HostName(PARSER, "TrainingArguments", "names the training keys"),
    HostName(PARSER, "FinetuningArguments", "names the fine-tuning keys"),
    HostName(PARSER, "GeneratingArguments", "names the generation keys"),
    HostName("llamafactory.data", "get_dataset", "loads and tokenises each task's data"),
    HostName("llamafactory.data", "get_template_and_fix_tokenizer", "builds the prompts"),
    HostName("llamafactory.data", "SFTDataCollatorWith4DAttentionMask", "batches the samples"),
    HostName("llamafactory.data.loader", "_load_single_dataset", "reads the raw records"),
    HostName("llamafactory.data.loader", "align_dataset", "is bypassed to see the raw records"),
    HostName("llamafactory.data.loader", "_get_merged_dataset", "tells replay which record a sample was made of"),
    HostName("llamafactory.data.converter", "align_dataset", "puts test records into the host's format"),
    HostName("llamafactory.data.template", "TEMPLATES", "tells whether a template exists"),
    HostName("llamafactory.data.parser", "get_dataset_list", "finds data sets in dataset_info.json"),
    HostName("llamafactory.data.processor", "UnsupervisedDatasetProcessor", "tokenises the prompts of test items"),
    HostName("llamafactory.data.processor", "SupervisedDatasetProcessor", "tokenises a record again, for replay"),
    HostName("llamafactory.data.processor.supervised", "infer_seqlen", "tells what `cutoff_len` cuts off a sample"),
    HostName("llamafactory.model", "load_tokenizer", "loads the tokenizer and the processor"),
    HostName("llamafactory.model", "load_model", "loads the base"),
    HostName("llamafactory.model", "load_config", "lets `plan` count what is trained without loading weights"),
    HostName("llamafactory.model.model_utils.visual", "COMPOSITE_MODELS", "tells which modules only pictures reach"),
    HostName(
        "llamafactory.model.loader", "init_adapter", "is put off until a task begins, and puts a routed model on"
    ),
    HostName("llamafactory.model.loader", "patch_config", "keeps trained modules out of the quantisation"),
    HostName("llamafactory.model.adapter", "init_adapter", "makes the task's parameters trainable"),
    HostName("llamafactory.extras.constants", "IGNORE_INDEX", "marks tokens without a loss"),
    HostName("llamafactory.extras.ploting", "plot_loss", "draws each task's loss curve"),
    HostName("llamafactory.train.sft.trainer", "CustomSeq2SeqTrainer", "trains each task"),
    HostName("llamafactory.train.callbacks", "LogCallback", "logs each task"),
    HostName("llamafactory.train.callbacks", "ReporterCallback", "reports each task to trackers"),
    HostName("llamafactory.train.sft", "run_sft", "is where a recipe with `cl` is taken over"),
)


def env_enabled(name: str) -> bool:
    """Whether an environment variable is on, by the host's own rule."""
    return os.environ.get(name, "0").lower() in {"true", "y", "1"}


def installed_version() -> str:
    """The version of LLaMA-Factory that is installed, or ``"not installed"``."""
    try:
        return metadata.version("llamafactory")
    except metadata.PackageNotFoundError:
        return "not installed"


def missing_in(module: ModuleType) -> list[HostName]:
    """The listed names that ``module`` should hold and does not."""
    return [entry for entry in NAMES if entry.module == module.__name__ and not hasattr(module, entry.name)]


def missing(*, load: bool = False) -> list[HostName]:
    """The listed names that this LLaMA-Factory does not have.

    Args:
        load: Import the modules that are not imported yet; otherwise only imported ones are checked (the host's
        training
            entry imports all of them before it parses a recipe).
    """
    absent: list[HostName] = []
    for entry in NAMES:
        module = sys.modules.get(entry.module)
        if module is None and load:
            try:
                module = importlib.import_module(entry.module)
            except ImportError:
                absent.append(entry)
                continue
        if module is not None and not hasattr(module, entry.name) and not _is_being_imported(module):
            absent.append(entry)
    return absent


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def incompatible(absent: list[HostName]) -> CompatibilityError:
    """The one error for names that have moved: which, the installed version, and the supported ones."""
    supported = " and ".join(SUPPORTED_VERSIONS)
    return CompatibilityError(
        [Problem(str(entry), f"is not there; it {entry.purpose}.", "") for entry in absent],
        headline=(
            f"`cl` cannot be used with LLaMA-Factory {installed_version()}: "
            "names that cl_plugins uses have moved. "
            f"Supported are {supported} (`pip install llamafactory=={SUPPORTED_VERSIONS[-1]}`); "
            "a recipe without `cl` still works. Missing:"
        ),
    )


def require(*, load: bool = False) -> None:
    """Check that every listed name is there.

    Args:
        load: See :func:`missing`.

    Raises:
        CompatibilityError: Naming everything that is missing, the installed version, and the supported ones.
    """
    absent = missing(load=load)
    if absent:
        raise incompatible(absent)

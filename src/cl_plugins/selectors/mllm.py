"""MLLM: the base itself, with a router LoRA, answers with the letter of the expert that a prompt belongs to.

Zhao et al., *MLLM-CL* (2025), MR-LoRA. The prompt is continued by an instruction that lists the experts, and the router is
trained with cross-entropy on the letter. At test it is one forward pass over prompt and instruction, and the largest of
the letters' logits wins, so that there is no answer that is no letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, DataError, Problem
from ..base.schema import nearest, option
from ..contract.phase import Phase
from .selector import SelectorConfig
from .trained import TrainedSelector


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.task import TaskContext
    from ..streams import Stream


PHASE = "router"
IGNORED = -100
BATCH = 4
#: Per-token entries of a sample that do not fit its new tokens; the model makes them again.
_DROPPED = frozenset(("position_ids", "token_type_ids", "mm_token_type_ids", "completion_mask", "assistant_masks"))
#: Where a sample has no labels yet: what says which tokens are the answer, 0 or 1 (TRL).
_MASKS = ("completion_mask", "assistant_masks")
_QUESTION = (
    "\nWhich expert should answer? Decide by the question, its picture and the list, and do not answer the question."
)
_ENDING = "\nReply with one letter.\nLetter:"


@dataclass(frozen=True)
class MLLMConfig(SelectorConfig):
    """Options of `MLLM`."""

    features: tuple[str, ...] = option((), help="None: the router reads the prompt itself.")
    epochs: float = option(40.0, help="Epochs of the router's training over the kept samples.", minimum=0)
    steps: int | None = option(None, help="Optimizer steps of the router's training, instead of `epochs`.", minimum=1)
    learning_rate: float = option(5e-6, help="Learning rate of the router.", minimum=0)
    batch_size: int | None = option(
        None, help="Samples per device and micro-batch in the router's training; null: as in the recipe.", minimum=1
    )
    accumulation: int | None = option(
        None, help="Micro-batches per optimizer step in the router's training; null: as in the recipe.", minimum=1
    )
    letters: dict[str, str] = option(
        factory=dict, help="Task -> letter of its expert; the others get the next free one, from A."
    )
    descriptions: dict[str, str] = option(
        factory=dict, help="Task -> what its expert can do, for the instruction; default: the task's title."
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Features, and letters that are none or are given twice."""
        found = []
        if self.features:
            found.append(
                Problem(f"{where}.features", "is given, and `mllm` reads the prompt itself.", "Leave it out.")
            )
        for task, letter in self.letters.items():
            if letter not in tuple(ascii_uppercase):
                found.append(Problem(f"{where}.letters.{task}", f"is {letter!r}.", "Use one letter from A to Z."))
        if len(set(self.letters.values())) < len(self.letters):
            found.append(Problem(f"{where}.letters", "gives a letter to two tasks.", "Use each letter once."))
        return found


class MLLM(TrainedSelector):
    """A router LoRA that names the expert."""

    kind = "mllm"
    config_class = MLLMConfig
    reveals = "a router LoRA; the samples it was trained on are in the replay buffer"

    @property
    def phase(self) -> Phase:
        """The router's training; one expert needs no router."""
        keys: dict[str, Any] = {
            "num_train_epochs": self.config.epochs,
            "max_steps": self.config.steps or -1,
            "learning_rate": self.config.learning_rate,
        }
        given = {
            "per_device_train_batch_size": self.config.batch_size,
            "gradient_accumulation_steps": self.config.accumulation,
        }
        keys |= {key: value for key, value in given.items() if value is not None}
        return Phase(PHASE, keys, samples="kept", since=2)

    def stream_problems(self, stream: Stream, where: str) -> list[Problem]:
        """Tasks that do not exist, and more tasks than letters."""
        names, found = stream.task_names, []
        for key in ("letters", "descriptions"):
            for task in getattr(self.config, key):
                if task not in names:
                    fix = f"{nearest(task, names)} Use one of {', '.join(names)}.".strip()
                    found.append(Problem(f"{where}.{key}.{task}", "is no task of the stream.", fix))
        if len(names) > len(ascii_uppercase):
            what = f"has {len(ascii_uppercase)} letters, and the stream has {len(names)} tasks."
            found.append(Problem(where, what, "Use another selector."))
        return found

    def expert(self, context: TaskContext, known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Letter and description of a task's expert.

        Raises:
            CompatibilityError: If its letter is an earlier task's, or no letter is left.
        """
        task, taken = context.task, {str(expert["letter"]) for expert in known}
        own = self.config.letters
        free = [x for x in ascii_uppercase if x not in taken and (own.get(task.name) == x or x not in own.values())]
        letter = own.get(task.name) or next(iter(free), None)
        if letter is None or letter in taken:
            what = f"has no letter for task '{task.name}': {', '.join(sorted(taken))} are taken by earlier tasks."
            raise CompatibilityError(Problem("cl.method.selector.letters", what, "Use a letter that is free."))
        return {"letter": letter, "description": self.config.descriptions.get(task.name) or task.title or task.name}

    def prompt(self, context: TaskContext, experts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """``instruction``, (length,), and the experts' ``letters``, (experts,): token ids."""
        import torch

        if context.encode is None:
            what = "writes its instruction with the tokenizer, and none is known."
            raise CompatibilityError(Problem("selector 'mllm'", what, "Give `ContinualLearner(..., tokenizer=...)`."))
        instruction, letters = instruction_ids(context.encode, experts)
        return {"instruction": torch.tensor(instruction), "letters": torch.tensor(letters)}

    def sample(self, prompt: Mapping[str, Tensor], number: int, sample: Mapping[str, Any]) -> dict[str, Any]:
        """The sample's prompt, the instruction, and the letter of its expert as the answer.

        Raises:
            DataError: If the sample is not tokenised, or has no prompt.
        """
        mark = next((name for name in ("labels", *_MASKS) if name in sample), None)
        if "input_ids" not in sample or mark is None:
            what = "has no `input_ids` with `labels` or `completion_mask`, of which the router's samples are made."
            raise DataError(Problem("a sample of the router", what, "Tokenise the data set before the training."))
        ids, outside = list(map(int, sample["input_ids"])), IGNORED if mark == "labels" else 0
        start = next((i for i, value in enumerate(sample[mark]) if int(value) != outside), len(ids))
        if not start:
            what = "has no prompt: every token has a label."
            raise DataError(Problem("a sample of the router", what, "Set `train_on_prompt: false`."))
        asked, letter = ids[:start] + prompt["instruction"].tolist(), int(prompt["letters"][number])
        new = {
            "input_ids": [*asked, letter],
            "attention_mask": [1] * (len(asked) + 1),
            mark: [outside] * len(asked) + [letter if mark == "labels" else 1],
        }
        return {**{k: v for k, v in sample.items() if k not in _DROPPED}, **_alike(new, sample["input_ids"])}

    def accuracy(self, prompt: Mapping[str, Tensor], context: TaskContext, model: Module) -> float:
        """Percentage of the kept samples whose letter has the largest logit."""
        import torch

        from ..adapters.modes import looking
        from ..adapters.places import logits_at
        from ..adapters.rows import answers_of

        right, data = 0, context.data
        count = len(data) if data is not None else 0
        with looking(model):
            for batch in data.batches(range(count), BATCH) if data is not None else ():
                wanted = batch["labels"]
                at = (wanted != IGNORED).int().argmax(dim=1)
                with answers_of(model, batch):
                    logits = logits_at(model, {k: v for k, v in batch.items() if k != "labels"}, at - 1)
                letters = prompt["letters"].to(logits.device)
                chosen = letters[logits[:, letters].argmax(dim=1)]
                right += int((chosen == wanted[torch.arange(len(at), device=at.device), at]).sum())
        return 100 * right / max(count, 1)

    def of_rows(self, prepared: dict[str, Tensor], state: RowState, rows: Rows) -> Tensor:
        """The letters' logits, (rows, tasks), from one forward pass with the router; zeros while there is one task."""
        import torch

        if not prepared:
            return torch.zeros(rows.count, 1)
        ids, attended, last = continued(rows.ids, rows.prompt, prepared["instruction"])
        count = len(prepared["letters"])
        kept = {"expert": torch.full((rows.count,), count)}
        logits = state.ask(rows, ids, attended, kept, last)
        return logits[:, prepared["letters"].to(logits.device)].float().cpu()


def instruction_ids(
    encode: Callable[[str], list[int]], experts: Sequence[Mapping[str, Any]]
) -> tuple[list[int], list[int]]:
    """Token ids of the instruction, and of the letter of each expert behind it.

    Args:
        encode: Token ids of a text, without special tokens.
        experts: ``letter`` and ``description`` of each.

    Raises:
        CompatibilityError: If a letter is not one token, or two letters are the same token.
    """
    lines = "".join(f"\n{expert['letter']}: {expert['description']}" for expert in experts)
    wanted = [str(expert["letter"]) for expert in experts]
    every = list(dict.fromkeys([*wanted, "A", "B"]))  # of a single text no one can say where the letter begins
    ids = {letter: encode(f"{_QUESTION}{lines}{_ENDING} {letter}") for letter in every}
    length = 0
    while len({tuple(found[: length + 1]) for found in ids.values()}) == 1:
        length += 1
    bad = [letter for letter in wanted if len(ids[letter]) != length + 1]
    if bad:
        what = f"needs letters of one token, and this tokenizer splits {', '.join(bad)}."
        raise CompatibilityError(
            Problem("cl.method.selector.letters", what, "Use other letters, or another selector.")
        )
    return ids[wanted[0]][:length], [ids[letter][length] for letter in wanted]


def continued(ids: Tensor, prompt: Tensor, instruction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with an instruction behind each.

    Args:
        ids: (rows, length), token ids with padding anywhere.
        prompt: (rows, length), bool: the tokens of the prompts.
        instruction: (n,), token ids.

    Returns:
        The new ids, padded on the right, which of them are no padding, and the last position of each row.
    """
    import torch

    instruction = instruction.to(ids.device)
    parts = [torch.cat([row[at], instruction]) for row, at in zip(ids, prompt, strict=True)]
    last = torch.tensor([len(part) - 1 for part in parts], device=ids.device)
    filler = int(instruction[0])  # never a token that stands for a picture
    new = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=filler)
    return new, torch.arange(new.shape[1], device=ids.device)[None, :] <= last[:, None], last


def _alike(new: dict[str, list[int]], old: Any) -> dict[str, Any]:
    """Lists, or tensors where the sample had some."""
    if not hasattr(old, "tolist"):
        return dict(new)
    import torch

    return {name: torch.tensor(value) for name, value in new.items()}

"""Prompts of test rows as a model gets them: tokens, batches, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem


if TYPE_CHECKING:
    import numpy as np

    from .rows import TestRow


#: Names under which configs and processors have the token that stands for a medium.
_MEDIA_TOKENS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id")


def tokenizer_of(reader: Any) -> Any:
    """The tokenizer of a processor; a tokenizer itself."""
    return getattr(reader, "tokenizer", reader)


class Prompts:
    """Tokens and batches of test rows.

    Args:
        reader: Tokenizer or processor.
        tokenizer: The tokenizer, with a padding token.
        rows: Task -> its test rows.
    """

    def __init__(self, reader: Any, tokenizer: Any, rows: Callable[[str], tuple[TestRow, ...]]) -> None:
        self._reader, self._tokenizer, self._rows = reader, tokenizer, rows

    def tokens(self, task: str, number: int) -> np.ndarray:
        """Token ids of a prompt, with every picture token, int32.

        Args:
            task: Name of the task.
            number: Number of the row.

        Raises:
            DataError: If the reader cannot make tokens of it.
        """
        import numpy as np

        row, where = self._rows(task)[number], f"tests['{task}'][{number}]"
        if row.images and self._reader is tokenizer_of(self._reader):
            what = "has pictures, which a tokenizer cannot read."
            raise DataError(Problem(where, what, "Give the processor: `tokenizer=processor`."))
        if "input_ids" in row.raw:
            return np.asarray(list(row.raw["input_ids"]), dtype=np.int32)
        try:
            ids = self._read([row])["input_ids"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError) as error:
            what = f"cannot be turned into tokens ({type(error).__name__}: {' '.join(str(error).split())[:300]})."
            fix = "Write the prompt as in training, or give `answer=`, a function of yours that answers rows."
            raise DataError(Problem(where, what, fix)) from error
        return np.asarray(ids[0], dtype=np.int32)

    def _read(self, rows: Sequence[TestRow], **options: Any) -> Any:
        """What the reader makes of rows, all with pictures or all without."""
        texts, complete, begin = [], False, self._tokenizer.bos_token
        for row in rows:
            prompt = row.raw["prompt"]
            if not isinstance(prompt, str):
                messages = _with_pictures(prompt, len(row.images))
                prompt = self._reader.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=False, **_for_template(row)
                )
                complete = True  # a chat template writes the special tokens itself
            complete = complete or (begin is not None and prompt.startswith(begin))
            texts.append(prompt)
        if complete:
            options["add_special_tokens"] = False
        if rows[0].images:
            options["images"] = [row.images for row in rows]
        return self._reader(text=texts, **options)

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch, padded on the left.

        Args:
            features: From `TestItem.feature`, with task and number of the row.

        Returns:
            ``input_ids`` and ``attention_mask`` (rows, length), and what the processor makes of the pictures.
        """
        import torch

        length = max(len(f["input_ids"]) for f in features)
        pad = int(self._tokenizer.pad_token_id)
        ids = [[pad] * (length - len(f["input_ids"])) + list(f["input_ids"]) for f in features]
        mask = [[0] * (length - len(f["attention_mask"])) + list(f["attention_mask"]) for f in features]
        batch: dict[str, Any] = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        rows = [self._rows(str(f["task"]))[int(f["row"])] for f in features]
        with_pictures = [row for row in rows if row.images]
        found = self._read(with_pictures, padding=True, return_tensors="pt") if with_pictures else {}
        for key in found:
            if tuple(found[key].shape[:2]) != tuple(found["input_ids"].shape):  # of the pictures, not of the tokens
                batch[key] = found[key]
        return batch

    def media_tokens(self, config: Any) -> list[int]:
        """Tokens that stand for pictures, videos or sounds.

        Args:
            config: The model's config.
        """
        found = [getattr(owner, name, None) for owner in (config, self._reader) for name in _MEDIA_TOKENS]
        return sorted({int(token) for token in found if isinstance(token, int)})


def _for_template(row: TestRow) -> dict[str, Any]:
    """What TRL hands to the chat template in training: the row's settings, and its tools unless it has pictures."""
    given = dict(row.raw.get("chat_template_kwargs") or {})
    tools = row.raw.get("tools")
    return given if tools is None or row.images else {"tools": tools, **given}


def _with_pictures(messages: Any, count: int) -> Any:
    """Messages with one part per picture in front of the first user turn, unless they have such parts already."""
    turns = [dict(message) for message in messages]
    parts = [p for m in turns if not isinstance(m.get("content"), str) for p in m.get("content") or ()]
    if not count or any(part.get("type") == "image" for part in parts):
        return turns
    for message in turns:
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = [{"type": "text", "text": content}]
    first = next((m for m in turns if m.get("role") == "user"), turns[0])
    first["content"] = [{"type": "image"}] * count + list(first["content"])
    return turns

"""The chat template that is saved with a model: the prompt format of the run, for Transformers' messages.

LLaMA-Factory's own translation of its templates takes texts only. Messages of Transformers, of vLLM and of the OpenAI API may
hold a list of parts instead: ``[{"type": "image"}, {"type": "text", "text": "..."}]``.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..base.logs import logger


_PLACES = {"image": "<image>", "video": "<video>", "audio": "<audio>"}  # what a prompt of the host holds for a medium
_TYPES = {
    "image": ("image", "image_url"),
    "video": ("video", "video_url"),
    "audio": ("audio", "audio_url", "input_audio"),
}
_QUESTION = "What colour is this?"
_SYSTEM = re.compile(r"(\{% if system_message is defined %\}\{\{ .*? \}\})(\{% endif %\})")


def chat_template(template: Any, tokenizer: Any, processor: Any) -> str | None:
    """A Jinja template that makes the prompts of the run, of texts and of lists of parts.

    Args:
        template: The host's template.
        tokenizer: The tokenizer.
        processor: The processor; None for a text model.

    Returns:
        The template of the processor or tokenizer itself where it gives the same prompts; None where the host cannot
        translate its template.
    """
    try:
        plain = template._get_jinja_template(tokenizer)
    except ValueError as error:  # a template with parts that depend on more than the messages
        logger.warning("the chat template in `final/` is that of the base: %s", error)
        return None
    parts = _of_parts(_media(template, processor))
    found = parts + plain
    spaced = parts + _SYSTEM.sub(r"\1{{ ' ' }}\2", plain)
    if not _asks_alike(template, tokenizer, found):
        if spaced != found and _asks_alike(template, tokenizer, spaced):
            found = spaced
        else:
            logger.info(
                "the chat template in `final/` may give other token ids than the run's prompts where two parts meet"
            )
    for own in (getattr(processor, "chat_template", None), getattr(tokenizer, "chat_template", None)):
        if isinstance(own, str) and own != plain and _same(tokenizer, own, found, processor is not None):
            return own
    return found


@contextmanager
def saved_with(template: Any, tokenizer: Any, processor: Any) -> Iterator[None]:
    """Give tokenizer and processor the run's chat template while they are saved.

    Args:
        template: The host's template.
        tokenizer: The tokenizer.
        processor: The processor; None for a text model.
    """
    text = chat_template(template, tokenizer, processor)
    before = [(each, each.chat_template) for each in (tokenizer, processor) if hasattr(each, "chat_template")]
    try:
        for each, _ in before:
            if text is not None:
                each.chat_template = text
        yield
    finally:
        for each, own in before:
            each.chat_template = own


def _of_parts(media: dict[str, str]) -> str:
    """Jinja that turns contents that are lists of parts into texts."""
    cases = "".join(
        f"{{%- elif part['type'] in {_TYPES[kind]} -%}}{{%- set cl_part.text = cl_part.text + {_quoted(text)} -%}}"
        for kind, text in media.items()
    )
    return (
        "{%- set cl_chat = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- if message['content'] is string or message['content'] is not iterable -%}"
        "{%- set cl_chat.messages = cl_chat.messages + [message] -%}"
        "{%- else -%}"
        "{%- set cl_part = namespace(text='') -%}"
        "{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'text' -%}{%- set cl_part.text = cl_part.text + part['text'] -%}"
        f"{cases}"
        "{%- else -%}{{- raise_exception('this model takes no parts of type ' + part['type']) -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- set cl_chat.messages = cl_chat.messages + [{'role': message['role'], 'content': cl_part.text}] -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- set messages = cl_chat.messages -%}"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _media(template: Any, processor: Any) -> dict[str, str]:
    """Kind of medium -> what a prompt holds for one, before the processor makes as many tokens of it as it needs."""
    if processor is None:
        return {}
    from PIL import Image

    picture = Image.new("RGB", (64, 64))
    plugin = copy.copy(template.mm_plugin)
    plugin.expand_mm_tokens = False
    found = {}
    for kind, place in _PLACES.items():
        given: dict[str, list[Any]] = {"images": [], "videos": [], "audios": []}
        given[f"{kind}s"] = [{"image": picture, "video": [picture, picture], "audio": "x.wav"}[kind]]
        try:
            made = plugin.process_messages(messages=[{"role": "user", "content": place}], processor=processor, **given)
        except Exception:  # this model has no such medium, or its tokens depend on the file
            continue
        if made[0]["content"] and made[0]["content"] != place:
            found[kind] = made[0]["content"]
        elif kind == "image" and getattr(plugin, "image_token", None) == place:
            found[kind] = place
    return found


def _asks_alike(template: Any, tokenizer: Any, jinja: str) -> bool:
    """Whether a chat template gives the ids of the run's prompts.

    The host tokenises the parts of a prompt one by one; some tokenizers put a space in front of each.
    """
    question = {"role": "user", "content": _QUESTION}
    try:
        ours, _ = template.encode_oneturn(tokenizer, [question, {"role": "assistant", "content": "A"}])
        text = tokenizer.apply_chat_template(
            [question], chat_template=jinja, tokenize=False, add_generation_prompt=True
        )
        return list(ours) == list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception:  # Jinja, Transformers and the tokenizer raise what they like
        return False


def _same(tokenizer: Any, own: str, ours: str, pictures: bool) -> bool:
    """Whether two chat templates give the same prompts for a few conversations."""
    contents: list[Any] = [_QUESTION, [{"type": "text", "text": _QUESTION}]]
    if pictures:
        contents.append([{"type": "image"}, {"type": "text", "text": _QUESTION}])
    turns = [{"role": "assistant", "content": "Red."}, {"role": "user", "content": "Sure?"}]
    try:
        for content, long in itertools.product(contents, (False, True)):
            chat = [{"role": "user", "content": content}, *(turns if long else [])]
            texts = [
                tokenizer.apply_chat_template(chat, chat_template=t, tokenize=False, add_generation_prompt=True)
                for t in (own, ours)
            ]
            if texts[0] != texts[1]:
                return False
    except Exception:  # Jinja, Transformers and the template itself raise what they like
        return False
    return True

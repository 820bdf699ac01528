"""The chat template that is saved with a model: the prompt format of the run, for Transformers' messages.

LLaMA-Factory's own translation of its templates takes texts only. Messages of Transformers, of vLLM and of the OpenAI API may
hold a list of parts instead: ``[{"type": "image"}, {"type": "text", "text": "..."}]``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..base.logs import logger
from . import chats


_PLACES = {"image": "<image>", "video": "<video>", "audio": "<audio>"}  # what a prompt of the host holds for a medium
_TYPES = {
    "image": ("image", "image_url"),
    "video": ("video", "video_url"),
    "audio": ("audio", "audio_url", "input_audio"),
}
_SLOTS = ("format_prefix", "format_system", "format_user", "format_assistant")


def chat_template(template: Any, tokenizer: Any, processor: Any) -> str | None:
    """A Jinja template that makes the prompts of the run, of texts and of lists of parts.

    Args:
        template: The host's template.
        tokenizer: The tokenizer.
        processor: The processor; None for a text model.

    Returns:
        The template of the processor or tokenizer itself where it gives the same prompts, or where the host cannot translate
        its template; None if there is none. Where it differs from the prompts of the run, it says so (`chats.marked`).
    """
    found, plain, inherited = None, None, [getattr(each, "chat_template", None) for each in (processor, tokenizer)]
    try:
        plain = _translated(template, tokenizer)
    except ValueError as error:  # a template with parts that depend on more than the messages
        found = next((own for own in inherited if isinstance(own, str)), None)
        logger.warning("the chat template in `final/` is that of the base: %s", error)
    if plain is not None:
        found = chats.closest(template, tokenizer, _of_parts(_media(template, processor)), plain)
        for own in inherited:
            if (
                isinstance(own, str)
                and own != plain
                and chats.same(template, tokenizer, own, found, processor is not None)
            ):
                found = own
                break
    if found is None:
        return None
    differences = chats.differences(template, tokenizer, found)
    if differences:
        text = "the chat template in `final/` gives other token ids than the prompts of the run for %s; the model card says so"
        logger.warning(text, ", ".join(differences))
    return chats.marked(found, differences)


def _translated(template: Any, tokenizer: Any) -> str:
    """The host's own translation, which knows no tokens by name and takes a backslash for the beginning of an escape."""
    found = copy.copy(template)
    found.default_system = template.default_system.replace("\\", "\\\\") if template.default_system else ""
    for name in _SLOTS:
        formatter = copy.copy(getattr(template, name))
        slots = [slot["token"] if isinstance(slot, dict) and "token" in slot else slot for slot in formatter.slots]
        formatter.slots = [slot.replace("\\", "\\\\") if isinstance(slot, str) else slot for slot in slots]
        setattr(found, name, formatter)
    text: str = found._get_jinja_template(tokenizer)
    return text


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
        f"{{%- elif part['type'] in {_TYPES[kind]} -%}}{{%- set cl_part.text = cl_part.text + {chats.quoted(text)} -%}}"
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

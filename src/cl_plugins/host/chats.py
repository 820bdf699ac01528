"""Whether a chat template gives the prompts of the run: a few chats, tokenised by both, and what mends a difference."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from ..contract.host import CHAT_DIFFERENCES


_QUESTION = "What colour is this?"
_SYSTEM = re.compile(r"(\{% if system_message is defined %\}\{\{ .*? \}\})(\{% endif %\})")


@dataclass(frozen=True)
class _Chat:
    """A chat of a few turns.

    Attributes:
        words: What it stands for, in messages.
        turns: Its messages, the last one a question.
        system: The system message; None for that of the template.
        reference: The answer that a test record has.
    """

    words: str
    turns: list[dict[str, Any]]
    system: str | None = None
    reference: str = "A"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What a chat template is given."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]


def closest(template: Any, tokenizer: Any, parts: str, plain: str) -> str:
    """The host's translation of its template, mended where it gives other prompts than the host.

    The host tokenises the parts of a prompt one by one, and some tokenizers put a space in front of each. Its translation
    knows nothing of thoughts: without thinking, a prompt ends with an empty one, and those of earlier answers are left out.

    Args:
        template: The host's template.
        tokenizer: The tokenizer.
        parts: Jinja that turns lists of parts into texts.
        plain: The host's translation.

    Returns:
        The first of the mended templates that asks a question like the run, if only in its letters, and differs in the fewest
        chats.
    """
    opening, closing = (quoted(word) for word in template.thought_words)
    thoughts = [
        "{%- if messages[-1]['role'] == 'user' -%}{{- " + quoted(space + template.add_thought()) + " -}}{%- endif -%}"
        for space in ("", " ")
    ]
    found = [
        parts + forgotten + text + thought
        for forgotten, thought, text in itertools.product(
            ("", _without_thoughts(opening, closing)), ("", *thoughts), (plain, _SYSTEM.sub(r"\1{{ ' ' }}\2", plain))
        )
    ]
    question = _chats(template)[0]

    def distance(text: str) -> tuple[bool, bool, int]:
        ours, theirs = _prompts(template, tokenizer, question, text)
        letters = ["".join(tokenizer.decode(ids).split()) for ids in (ours, theirs)]
        return ours != theirs, letters[0] != letters[1], len(_differing(template, tokenizer, text))

    return min(found, key=distance)


def differences(template: Any, tokenizer: Any, jinja: str) -> list[str]:
    """The kinds of chats for which a chat template gives other token ids than the run asks with, in words."""
    found = [chat.words for chat in _differing(template, tokenizer, jinja)]
    return ["every question"] if _chats(template)[0].words in found else found


def marked(jinja: str, found: list[str]) -> str:
    """A chat template that says for which chats it differs."""
    return "{# " + CHAT_DIFFERENCES + ", ".join(found) + " #}" + jinja if found else jinja


def same(template: Any, tokenizer: Any, own: str, ours: str, pictures: bool) -> bool:
    """Whether two chat templates give the same prompts."""
    chats = [chat.messages for chat in _chats(template)]
    content = [{"type": "text", "text": _QUESTION}]
    chats.append([{"role": "user", "content": content}])
    if pictures:
        chats.append([{"role": "user", "content": [{"type": "image"}, *content]}])
    try:
        for chat in chats:
            texts = [
                tokenizer.apply_chat_template(chat, chat_template=t, tokenize=False, add_generation_prompt=True)
                for t in (own, ours)
            ]
            if texts[0] != texts[1]:
                return False
    except Exception:  # Jinja, Transformers and the template itself raise what they like
        return False
    return True


def quoted(text: str) -> str:
    """A text as Jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def _chats(template: Any) -> list[_Chat]:
    opening, closing = template.thought_words
    question = {"role": "user", "content": _QUESTION}

    def long(answer: str) -> list[dict[str, Any]]:
        return [question, {"role": "assistant", "content": answer}, {"role": "user", "content": "Sure?"}]

    return [
        _Chat("questions", [question]),
        _Chat("questions with a system message", [question], system="Be brief."),
        _Chat("conversations of several turns", long("Red.")),
        _Chat("earlier answers with thoughts", long(f"{opening}Hm.{closing}Red.")),
        _Chat("questions whose reference has a thought", [question], reference=f"{opening}Hm.{closing}A"),
    ]


def _differing(template: Any, tokenizer: Any, jinja: str) -> list[_Chat]:
    prompts = [(chat, _prompts(template, tokenizer, chat, jinja)) for chat in _chats(template)]
    return [chat for chat, (ours, theirs) in prompts if ours != theirs]


def _prompts(template: Any, tokenizer: Any, chat: _Chat, jinja: str) -> tuple[list[int], list[int]]:
    """The ids of the run's prompt and of that of a chat template, which are none where it fails."""
    answer = {"role": "assistant", "content": chat.reference}
    ours, _ = template.encode_oneturn(tokenizer, [*map(dict, chat.turns), answer], chat.system)
    try:
        text = tokenizer.apply_chat_template(
            chat.messages, chat_template=jinja, tokenize=False, add_generation_prompt=True
        )
        return list(ours), list(tokenizer(text, add_special_tokens=False)["input_ids"])
    except Exception:  # Jinja, Transformers and the tokenizer raise what they like
        return list(ours), []


def _without_thoughts(opening: str, closing: str) -> str:
    """Jinja that leaves thoughts out of earlier answers, as the host does with a regular expression."""
    return (
        "{%- set cl_past = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'assistant' and not loop.last and message['content'] is string -%}"
        "{%- set cl_text = namespace(kept='') -%}"
        f"{{%- for piece in message['content'].split({closing}) -%}}"
        "{%- if loop.last -%}{%- set cl_text.kept = cl_text.kept + piece -%}"
        f"{{%- elif {opening} in piece -%}}{{%- set cl_text.kept = cl_text.kept + piece.split({opening})[0] -%}}"
        f"{{%- else -%}}{{%- set cl_text.kept = cl_text.kept + piece + {closing} -%}}{{%- endif -%}}"
        "{%- endfor -%}"
        "{%- set cl_past.messages = cl_past.messages + [{'role': 'assistant', 'content': cl_text.kept.lstrip('\\n')}] -%}"
        "{%- else -%}{%- set cl_past.messages = cl_past.messages + [message] -%}{%- endif -%}"
        "{%- endfor -%}"
        "{%- set messages = cl_past.messages -%}"
    )

"""Reasoning in front of an answer: it is kept, and it is not scored."""

from __future__ import annotations


#: What most reasoning models write around their thoughts.
TAGS = ("<think>", "</think>")


def split_thought(text: str, words: tuple[str, str] | None = None) -> tuple[str, str]:
    """The thought and the answer of a text.

    A thought is what stands between the two words at the beginning of the text (several in a row are one), or before a
    closing word without an opening one, as where the prompt ends with the opening word. A thought that never ends,
    because the answer was cut, leaves an empty answer.

    Args:
        text: A reference, or what a model generated.
        words: The opening and the closing word of a template, in addition to `TAGS`.

    Returns:
        The thought without its words and outer white space, and the answer; a text without a thought is returned as it
        is.
    """
    given = [] if words is None else [(words[0].strip(), words[1].strip())]
    pairs = dict.fromkeys([*(pair for pair in given if all(pair)), TAGS])
    thoughts: list[str] = []
    rest, found = text, True
    while found:
        found = False
        for opening, closing in pairs:
            start = rest.lstrip()
            if start.startswith(opening):
                thought, _, rest = start.removeprefix(opening).partition(closing)
            elif closing in rest:
                thought, _, rest = rest.partition(closing)
            else:
                continue
            thoughts.append(thought.strip())
            found = True
    if not thoughts:
        return "", text
    return "\n".join(filter(None, thoughts)), rest.strip()


def join_thought(thought: str, answer: str) -> str:
    """A text out of a thought and the answer behind it, in the words that most reasoning models write; see `split_thought`."""
    return f"{TAGS[0]}\n{thought}\n{TAGS[1]}\n\n{answer}" if thought else answer

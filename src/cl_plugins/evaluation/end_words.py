"""The word that ends an answer in files of LLaMA-Factory."""

from __future__ import annotations


#: Words with which LLaMA-Factory's templates end an answer, and those of tokenizers that they rely on. They stay in a
#: file where they are not special tokens of the tokenizer, or with ``skip_special_tokens: false``.
END_WORDS = (
    "</s>", "<eos>", "<eod>", "<turn|>", "<end_of_turn>", "<end_of_sentence>", "<|EOT|>", "<|END_OF_TURN_TOKEN|>",
    "<|end_of_sentence|>", "<|end_of_text|>", "<|endofassistant|>", "<|endoftext|>", "<|end|>", "<|eom_id|>", "<|eom|>",
    "<|eos|>", "<|eot_id|>", "<|eot|>", "<|im_end|>", "<|observation|>", "<|return|>", "<|role_end|>", "<|user|>",
    "<｜end▁of▁sentence｜>", "<｜hy_eos｜>", "<｜hy_place▁holder▁no▁2｜>", "[e~[",
)  # fmt: skip


def without_end_words(text: str) -> str:
    """A text without the words that end an answer, and the white space around them.

    Args:
        text: A label or a prediction of LLaMA-Factory.

    Returns:
        The text before the first of the words at its end; a text that does not end with one is returned as it is.
    """
    rest = text
    while True:
        bare = rest.rstrip()
        word = next((word for word in END_WORDS if bare.endswith(word)), None)
        if word is None:
            return rest if rest is text else bare
        rest = bare.removesuffix(word)

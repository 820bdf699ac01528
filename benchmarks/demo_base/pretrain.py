"""Pretrain the demo base from scratch on everyday photographs.

First the picture encoder alone learns to report what each patch shows; then the whole model learns to answer with a
letter, to caption, and to stop: for most steps on three bare questions about a picture, then on whole prompts.
About eight minutes on two free cores. The stream's pictures are never looked at.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.demo_base import model as base_model
from benchmarks.demo_base.corpus import Picture, find_the_word, make_pictures, questions, scale_of
from benchmarks.demo_base.photographs import PHOTOGRAPHS
from cl_plugins.data.demo.items import SIDE
from cl_plugins.data.demo.sources import require


if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast


DEMO_WORDS = (
    "How is this tissue stained? pink and purple dyes, little brown stain, much brown stain. "
    "Which tissue is inside the red box? grey matter, white matter, fluid. "
    "How many nuclei are in this picture? 0 1 2 3 4 5 6 7 8 9 nuclei or fewer, 6 to 7 nuclei, 8 nuclei or more. "
    "Describe this slice of the brain. A sagittal slice, A coronal slice, An axial slice close to the midline, beside the "
    "midline, far from the midline, at the back of the head, in the middle of the head, at the front of the head, through "
    "the lower brain, through the central brain, through the upper brain with little, some, much white matter. "
    "A. B. C. D. E. F. Answer with the letter. Answer with the option's letter from the given choices directly. yes no"
)
"""Words of the stream, so that the tokenizer has short codes for them; the model is not trained on this text."""

VISION_STEPS, VISION_BATCH, VISION_RATE = 500, 96, 1.5e-3
SHORT_STEPS, FULL_STEPS, BATCH, RATE = 1200, 500, 32, 1.5e-3
BARE_TURNS = 3


def pretrain(
    pictures: int = 10000,
    vision_steps: int = VISION_STEPS,
    short_steps: int = SHORT_STEPS,
    full_steps: int = FULL_STEPS,
    seed: int = 0,
    quiet: bool = False,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast, dict[str, Any]]:
    """Make the corpus, the tokenizer and the model, and train it.

    Args:
        pictures: Number of pretraining pictures.
        vision_steps: Steps of the picture encoder alone.
        short_steps: Steps of the whole model on bare questions.
        full_steps: Steps of the whole model on prompts as they will be used.
        seed: Seed of everything random.
        quiet: Do not report progress on stderr.

    Returns:
        The model (fp32, eval mode), the tokenizer, and what is worth noting: losses, seconds, held-out accuracy.
    """
    import torch

    require(tuple(photo.source for photo in PHOTOGRAPHS), modules=("PIL",))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    started = time.monotonic()
    shown = make_pictures(pictures, seed)
    held_out = make_pictures(600, seed + 1)
    scale = scale_of(shown)
    asked = [questions(picture, scale) for picture in shown]
    texts = [base_model.prompt(user) + answer for pairs in asked[:1500] for user, answer in pairs]
    tokenizer = base_model.train_tokenizer([*texts, *([DEMO_WORDS] * 500)])
    torch.manual_seed(seed)
    model = base_model.make_model(tokenizer)
    log = _Log(started, quiet)
    pixels = to_tensor([picture.image for picture in shown])
    train_vision(model, pixels, shown, vision_steps, seed, log)
    train_all(model, tokenizer, pixels, asked, (short_steps, full_steps), seed, log)
    accuracy = letter_accuracy(model, tokenizer, held_out, [questions(picture, scale) for picture in held_out])
    log.line(f"held-out crops of the same photographs, letter accuracy: {accuracy}")
    return model.eval(), tokenizer, {"seconds": round(time.monotonic() - started), "held_out_accuracy": accuracy}


class _Log:
    """Progress on stderr."""

    def __init__(self, started: float, quiet: bool) -> None:
        self.started, self.quiet = started, quiet

    def line(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(f"[{time.monotonic() - self.started:5.0f} s] {text}\n")


def to_tensor(images: list[NDArray[np.uint8]]) -> torch.Tensor:
    """Return (n, 3, 32, 32) fp32, scaled as the processor scales: mean 0.5, standard deviation 0.25."""
    import torch

    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return ((stacked / 255 - 0.5) / 0.25).contiguous()


def _rate(step: int, steps: int) -> float:
    """Warm up over 5 %, then a cosine to 2 %."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.49 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def vision_targets(pictures: list[Picture]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what the picture encoder must report.

    Returns:
        Per patch (n, 16, 5): mean red, green, blue (0-1), spread of grey (0-1), whether the box's centre lies in it.
        Per picture (n, 7): shade, spread, count / 10, has box, box row, box column (0-1), mean red minus mean blue.
        Photograph (n,) int64.
    """
    import torch

    images = np.stack([picture.image for picture in pictures]).astype(np.float32) / 255
    grid, patch = SIDE // base_model.PATCH, base_model.PATCH
    patches = images.reshape(-1, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(len(pictures), grid * grid, patch * patch, 3)
    boxes = np.zeros((len(pictures), grid * grid, 1), dtype=np.float32)
    for index, picture in enumerate(pictures):
        if picture.kind == "box":
            boxes[index, picture.box[0] // patch * grid + picture.box[1] // patch] = 1
    local = np.concatenate([patches.mean(2), patches.mean(3).std(2)[..., None], boxes], axis=-1)
    whole = np.array(
        [(p.shade, p.spread, p.count / 10, p.kind == "box", p.box[0] / SIDE, p.box[1] / SIDE, 0.0) for p in pictures],
        dtype=np.float32,
    )
    whole[:, 6] = (images[..., 0] - images[..., 2]).mean((1, 2))
    photo = np.array([picture.photo for picture in pictures])
    return torch.from_numpy(local), torch.from_numpy(whole), torch.from_numpy(photo)


def train_vision(
    model: LlavaForConditionalGeneration,
    pixels: torch.Tensor,
    pictures: list[Picture],
    steps: int,
    seed: int,
    log: _Log,
) -> None:
    """Train the picture encoder with throw-away linear heads on its patch states (the ones the language model will see).

    Args:
        model: Its vision tower is trained in place.
        pixels: (n, 3, 32, 32).
        pictures: The same n pictures, for the targets.
        steps: Optimizer steps.
        seed: Seed of the order.
        log: Where to report.
    """
    import torch
    from torch.nn import functional

    tower = model.model.vision_tower
    local, whole, photo = vision_targets(pictures)
    spread = whole.std(0, keepdim=True).clamp_min(1e-3)
    heads = torch.nn.ModuleList(
        [torch.nn.Linear(base_model.WIDTH, size) for size in (local.shape[-1], whole.shape[-1], len(PHOTOGRAPHS))]
    )
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=VISION_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    order = _batches(len(pictures), VISION_BATCH, seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = VISION_RATE * _rate(step, steps)
        index = torch.from_numpy(next(order))
        states = tower(pixels[index]).last_hidden_state[:, 1:]
        pooled = states.mean(1)
        boxed = whole[index][:, 3:4]
        weight = torch.ones_like(whole[index])
        weight[:, 4:6] = boxed  # the place of a box counts only where there is one
        terms = [
            functional.mse_loss(heads[0](states)[..., :4], local[index][..., :4]) * 20,
            functional.binary_cross_entropy_with_logits(heads[0](states)[..., 4], local[index][..., 4]) * 2,
            (((heads[1](pooled) - whole[index]) / spread).square() * weight).mean(),
            functional.cross_entropy(heads[2](pooled), photo[index]) * 0.3,
        ]
        loss = torch.stack(terms).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            log.line(f"pictures {step:5d}: " + " ".join(f"{term.item():.3f}" for term in terms))


def _batches(number: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield index arrays without end, every item once per pass."""
    rng = np.random.default_rng(seed + 7)
    while True:
        order = rng.permutation(number)
        for start in range(0, number - size + 1, size):
            yield order[start : start + size]


def encode(
    tokenizer: PreTrainedTokenizerFast, dialogues: list[list[tuple[str, str]]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, attention mask and labels (-100 outside the answers), each (n, longest), padded on the right.

    Prompts and answers are tokenised apart, as LLaMA-Factory does; every answer ends with ``</s>``.

    Args:
        tokenizer: The base's tokenizer.
        dialogues: For each picture, its turns as (rendered prompt, answer).
    """
    import torch

    image = "<image>" * base_model.IMAGE_TOKENS
    rows = []
    for turns in dialogues:
        ids: list[int] = []
        targets: list[int] = []
        for text, answer in turns:
            asked = tokenizer.encode(text.replace("<image>", image), add_special_tokens=False)
            reply = [*tokenizer.encode(answer, add_special_tokens=False), int(tokenizer.eos_token_id)]
            ids += asked + reply
            targets += [-100] * len(asked) + reply
        rows.append((ids, targets))
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for row, (ids, targets) in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(targets)
        mask[row, : len(ids)] = 1
    return tokens, mask, labels


def answer_weights(labels: torch.Tensor, end: int) -> torch.Tensor:
    """Return weights (n, length) that sum to one in all and give every answer the same share, however long it is.

    Args:
        labels: (n, length), -100 outside the answers.
        end: Id of the token that ends an answer.
    """
    import torch

    weights = torch.zeros(labels.shape)
    for row in range(labels.shape[0]):
        start = 0
        for stop in (labels[row] == end).nonzero()[:, 0].tolist():
            places = [place for place in range(start, stop + 1) if labels[row, place] != -100]
            weights[row, places] = 1 / len(places)
            start = stop + 1
    return weights / weights.sum()


def train_all(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pixels: torch.Tensor,
    asked: list[list[tuple[str, str]]],
    steps: tuple[int, int],
    seed: int,
    log: _Log,
) -> None:
    """Train the whole model on answers, the picture encoder at a fifth of the rate.

    Every answer weighs the same, however long: else the captions would drown the letters.

    Args:
        model: Trained in place.
        tokenizer: Its tokenizer.
        pixels: (n, 3, 32, 32).
        asked: For each picture, the questions that may be asked.
        steps: Optimizer steps on bare questions, then on whole prompts.
        seed: Seed of order and choice.
        log: Where to report.
    """
    import torch
    from torch.nn import functional

    rng = np.random.default_rng(seed + 11)
    tower = list(model.model.vision_tower.parameters())
    known = {id(parameter) for parameter in tower}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": rest, "scale": 1.0}, {"params": tower, "scale": 0.2}],
        lr=RATE,
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    order = _batches(len(asked), BATCH, seed + 1)
    model.train()
    for step in range(sum(steps)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * _rate(step, sum(steps)) * group["scale"]
        index = next(order)
        bare = step < steps[0]
        tokens, mask, labels = encode(tokenizer, [_dialogue(asked[place], bare, rng) for place in index])
        logits = model(input_ids=tokens, attention_mask=mask, pixel_values=pixels[torch.from_numpy(index)]).logits[
            :, :-1
        ]
        losses = functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=-100)
        loss = (losses * answer_weights(labels, int(tokenizer.eos_token_id))[:, 1:]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == sum(steps) - 1:
            log.line(f"answers {step:5d}: loss {loss.item():.3f}")


def _dialogue(pairs: list[tuple[str, str]], bare: bool, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return three bare turns about a picture, or one as it will be used; one in six of these is about the options alone."""
    if bare:
        chosen = [pairs[place] for place in rng.permutation(len(pairs))[:BARE_TURNS]]
        texts = base_model.bare_turns([user for user, _ in chosen])
        return [(text, answer) for text, (_, answer) in zip(texts, chosen, strict=True)]
    user, answer = find_the_word(rng) if rng.random() < 1 / 6 else pairs[int(rng.integers(len(pairs)))]
    return [(base_model.prompt(user), answer)]


def letter_accuracy(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pictures: list[Picture],
    asked: list[list[tuple[str, str]]],
) -> dict[str, float]:
    """Return, for each question with letters, the share of pictures whose next token is the right letter."""
    import torch

    found: dict[str, list[bool]] = {}
    model.eval()
    pixels = to_tensor([picture.image for picture in pictures])
    flat = [(place, user, answer) for place, pairs in enumerate(asked) for user, answer in pairs if len(answer) == 1]
    with torch.no_grad():
        for start in range(0, len(flat), 128):
            part = flat[start : start + 128]
            tokens, mask, labels = encode(tokenizer, [[(base_model.prompt(user), answer)] for _, user, answer in part])
            logits = model(
                input_ids=tokens, attention_mask=mask, pixel_values=pixels[[place for place, _, _ in part]]
            ).logits
            first = (labels != -100).long().argmax(1)
            guess = logits[torch.arange(len(part)), first - 1].argmax(-1)
            right = guess == labels[torch.arange(len(part)), first]
            for (_, user, _), good in zip(part, right.tolist(), strict=True):
                question = user.split("\n")[1]
                for colour in ("green", "blue", "yellow"):
                    question = question.replace(colour, "red")
                found.setdefault(question, []).append(good)
    return {question: round(100 * float(np.mean(good)), 1) for question, good in sorted(found.items())}

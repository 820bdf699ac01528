"""What adapters cost, block by block: frozen encoders alone, a training step without adapters, and with both forms of them.

The encoders are transformers with random weights (pictures, sounds, and with three modalities texts). Measured is CPU time of
this process on one thread, the median of several repetitions::

    python -m benchmarks.cross_modal.step --out benchmarks/cross_modal/results

writes ``step.json`` and ``step.md``. Without adapters no gradient passes an encoder; with them it passes every layer behind the
first adapter, so that a step costs more than the adapters' own products.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cl_plugins.crossmodal.encoders import config_of, make_encoder
from cl_plugins.crossmodal.model import CrossModalClassifier


FORMS = ("none", "multiplicative", "additive")
Row = dict[str, Any]


def encoders(modalities: int, width: int, layers: int) -> dict[str, Any]:
    """Encoders with random weights.

    Args:
        modalities: 2 (pictures and sounds) or 3 (and texts).
        width: Their width.
        layers: Their layers.
    """
    size = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 3,
        "intermediate_size": 4 * width,
    }
    sound = {"patch_size": 16, "frequency_stride": 16, "time_stride": 16, "max_length": 128, "num_mel_bins": 64}
    configs = {
        "picture": {"model_type": "vit", "image_size": 96, "patch_size": 16, **size},
        "sound": {"model_type": "audio-spectrogram-transformer", **sound, **size},
        "words": {"model_type": "bert", "vocab_size": 1000, "max_position_embeddings": 64, **size},
    }
    torch.manual_seed(0)
    return {name: make_encoder(config_of(configs[name])) for name in list(configs)[:modalities]}


def inputs(modalities: int, rows: int) -> dict[str, torch.Tensor]:
    """A batch of noise."""
    draw = torch.Generator().manual_seed(1)
    found = {
        "picture.pixel_values": torch.randn(rows, 3, 96, 96, generator=draw),
        "sound.input_values": torch.randn(rows, 128, 64, generator=draw),
    }
    if modalities > 2:
        found["words.input_ids"] = torch.randint(2, 1000, (rows, 32), generator=draw)
        found["words.attention_mask"] = torch.ones(rows, 32, dtype=torch.long)
    return found


def median(measure: Callable[[], float], repeats: int) -> float:
    """The median of some measurements, after one that does not count."""
    measure()
    return statistics.median(measure() for _ in range(repeats))


@contextmanager
def by_block(model: CrossModalClassifier) -> Iterator[dict[str, list[float]]]:
    """Seconds that each block's layers and adapter take in the forward passes inside, summed over the modalities."""
    blocks = model.config.blocks
    spent = {"layers": [0.0] * blocks, "adapters": [0.0] * blocks}
    own: list[Any] = list(model.encoders.values())
    replaced = []
    for encoder in own:
        advance = encoder.advance

        def timed(state: Any, block: int, _advance: Any = advance) -> None:
            start = time.process_time()
            _advance(state, block)
            spent["layers"][block] += time.process_time() - start

        encoder.advance = timed
        replaced.append(encoder)
    handles = []
    started = [0.0] * blocks
    for number, adapter in enumerate(model.adapters):

        def before(*args: Any, _n: int = number) -> None:
            started[_n] = time.process_time()

        def after(*args: Any, _n: int = number) -> None:
            spent["adapters"][_n] += time.process_time() - started[_n]

        handles += [adapter.register_forward_pre_hook(before), adapter.register_forward_hook(after)]
    try:
        yield spent
    finally:
        for encoder in replaced:
            del encoder.advance
        for handle in handles:
            handle.remove()


def measure(modalities: int, form: str, args: argparse.Namespace) -> Row:
    """One classifier: its encoders alone, its forward by block, and a training step, in milliseconds.

    Args:
        modalities: 2 or 3.
        form: Of the adapters.
        args: The options.
    """
    model = CrossModalClassifier.from_encoders(
        encoders(modalities, args.width, args.layers),
        labels=[str(i) for i in range(10)],
        adapters=form,
        blocks=args.blocks,
        experts=args.experts,
        top=2,
        bottleneck=args.bottleneck,
        projection=args.width,
    )
    batch, labels = inputs(modalities, args.rows), torch.arange(args.rows) % 10
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def alone() -> float:
        start = time.process_time()
        with torch.no_grad():
            for name, encoder in model.encoders.items():
                encoder.encoder(**{k.partition(".")[2]: v for k, v in batch.items() if k.startswith(f"{name}.")})
        return time.process_time() - start

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad()
        model(labels=labels, **batch).loss.backward()
        optimizer.step()
        return time.process_time() - start

    found: dict[str, list[list[float]]] = {"layers": [], "adapters": []}
    for _ in range(args.repeats + 1):
        with by_block(model) as spent:
            model(labels=labels, **batch)
        for part, seconds in spent.items():
            found[part].append(seconds)
    forward = {
        part: [1000 * statistics.median(each[1:]) for each in zip(*rows, strict=True)] for part, rows in found.items()
    }
    return {
        "modalities": modalities,
        "adapters": form,
        "encoders_ms": 1000 * median(alone, args.repeats),
        "step_ms": 1000 * median(step, args.repeats),
        "forward_layers_ms": forward["layers"],
        "forward_adapters_ms": forward["adapters"],
        "trained": sum(p.numel() for p in trained),
    }


def table(rows: list[Row]) -> str:
    """The measurements in Markdown."""
    lines = [
        "| modalities | adapters | encoders alone | training step | per block, more than without | forward of a block's layers | forward of its adapter | trained parameters |"
    ]
    lines.append("| --- " * 8 + "|")
    for row in rows:
        plain = next(r for r in rows if r["modalities"] == row["modalities"] and r["adapters"] == "none")
        blocks = len(row["forward_layers_ms"])
        more = f"{(row['step_ms'] - plain['step_ms']) / blocks:.0f}" if row is not plain else ""
        layers, adapters = (
            ", ".join(f"{v:.0f}" for v in row[f"forward_{part}_ms"]) for part in ("layers", "adapters")
        )
        cells = [
            row["modalities"],
            row["adapters"],
            f"{row['encoders_ms']:.0f}",
            f"{row['step_ms']:.0f}",
            more,
            layers,
        ]
        cells += [adapters if row is not plain else "", f"{row['trained']:,}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--modalities", nargs="+", type=int, choices=(2, 3), default=[2, 3])
    parser.add_argument("--rows", type=int, default=16, help="samples in a batch")
    parser.add_argument("--width", type=int, default=192, help="of encoders and representations")
    parser.add_argument("--layers", type=int, default=12, help="of every encoder")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--bottleneck", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for modalities in args.modalities:
        for form in FORMS:
            rows.append(measure(modalities, form, args))
            print(rows[-1], flush=True)
    options = {key: value for key, value in vars(args).items() if key != "out"}
    about = {"torch": torch.__version__, "machine": platform.machine(), "cpus": os.cpu_count()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "step.json").write_text(json.dumps({"options": options, **about, "rows": rows}, indent=1) + "\n")
    (args.out / "step.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()

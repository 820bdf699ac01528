"""Do adapters see what concatenation does not? Two signals, and a label that says whether they agree.

Each signal is one of ``--symbols`` waves in noise, and the label is whether both are the same wave: neither signal alone
says anything about it. The encoders are frozen transformers with random weights. Compared are concatenation (projections and
fusion only, `adapters: none`) and both forms of adapters, all trained alike, over several seeds.

    python -m benchmarks.cross_modal.agreement --out benchmarks/cross_modal/results

writes ``agreement.json`` and ``agreement.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from cl_plugins.crossmodal.model import CrossModalClassifier
from cl_plugins.crossmodal.signals import SignalConfig, SignalEncoder


LENGTH = 32
FORMS = ("none", "multiplicative", "additive")


def data(
    count: int, symbols: int, noise: float, draw: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Signals and labels, half of which agree.

    Args:
        count: Samples.
        symbols: Different waves.
        noise: Standard deviation of the noise.
        draw: Generator.
    """
    labels = torch.arange(count) % 2
    first = torch.randint(symbols, (count,), generator=draw)
    other = (first + torch.randint(1, symbols, (count,), generator=draw)) % symbols
    second = torch.where(labels == 1, first, other)
    places = torch.arange(LENGTH)[None] / LENGTH

    def wave(symbol: torch.Tensor) -> torch.Tensor:
        clean = torch.sin(2 * torch.pi * (1 + symbol[:, None]) * places)
        return (clean + noise * torch.randn(count, LENGTH, generator=draw))[..., None]

    return {"left.values": wave(first), "right.values": wave(second)}, labels


def model(form: str, seed: int, blocks: int) -> CrossModalClassifier:
    """A classifier on two frozen encoders; these are the same for every form and seed.

    Args:
        form: Of the adapters.
        seed: Of what is trained.
        blocks: Blocks of each encoder.
    """
    encoders = {}
    for number, name in enumerate(("left", "right")):
        torch.manual_seed(number)
        encoders[name] = SignalEncoder(
            SignalConfig(length=LENGTH, piece=4, hidden_size=32, num_hidden_layers=4, num_attention_heads=4)
        )
    torch.manual_seed(1000 + seed)
    options = {"blocks": blocks, "experts": 10, "top": 2, "bottleneck": 16, "projection": 32}
    return CrossModalClassifier.from_encoders(encoders, labels=["differ", "agree"], adapters=form, **options)


def accuracy(classifier: CrossModalClassifier, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> float:
    """Percentage of right answers."""
    with torch.no_grad():
        return 100 * float((classifier(**inputs).logits.argmax(-1) == labels).float().mean())


def run(form: str, seed: int, args: argparse.Namespace) -> dict[str, float | int | str]:
    """Train and test one model.

    Args:
        form: Of the adapters.
        seed: Of data, trained parts and order.
        args: The options.
    """
    draw = torch.Generator().manual_seed(seed)
    inputs, labels = data(args.train, args.symbols, args.noise, draw)
    tests, expected = data(args.test, args.symbols, args.noise, draw)
    classifier = model(form, seed, args.blocks)
    trained = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    began = time.process_time()
    for _ in range(args.steps):
        rows = torch.randint(args.train, (32,), generator=draw)
        loss = classifier(labels=labels[rows], **{k: v[rows] for k, v in inputs.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "adapters": form,
        "seed": seed,
        "train": accuracy(classifier, inputs, labels),
        "test": accuracy(classifier, tests, expected),
        "ms_per_step": 1000 * (time.process_time() - began) / args.steps,
        "trained": sum(p.numel() for p in trained),
    }


def with_interval(values: list[float]) -> str:
    """The mean ± half its 95 % t-interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.1f}"
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


def table(found: list[dict[str, float | int | str]]) -> str:
    """The results as Markdown; more than none is the mean of the differences seed by seed."""
    heads = "adapters | test accuracy | more than none | by seed | training accuracy | CPU ms per step | trained parameters"
    lines = [f"| {heads} |", "| --- " * 7 + "|"]
    plain = {one["seed"]: float(one["test"]) for one in found if one["adapters"] == "none"}
    for form in FORMS:
        own = [one for one in found if one["adapters"] == form]
        if not own:
            continue
        tests = [float(one["test"]) for one in own]
        paired = [float(one["test"]) - plain[one["seed"]] for one in own if one["seed"] in plain]
        more = with_interval(paired) if paired and form != "none" else ""
        trains, times = (statistics.mean(float(one[key]) for one in own) for key in ("train", "ms_per_step"))
        seeds = ", ".join(f"{value:.1f}" for value in tests)
        cells = (form, with_interval(tests), more, seeds, f"{trains:.1f}", f"{times:.1f}", f"{own[0]['trained']:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every form with every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="forms of adapters")
    parser.add_argument("--symbols", type=int, default=6)
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(args.seeds):
        for form in args.forms:
            found.append(run(form, seed, args))
            print(found[-1], flush=True)
            options = {key: str(value) if key == "out" else value for key, value in vars(args).items() if key != "out"}
            (args.out / "agreement.json").write_text(
                json.dumps({"options": options, "torch": torch.__version__, "runs": found}, indent=1) + "\n"
            )
            (args.out / "agreement.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()

"""LLaMA-Factory's `run_exp` without a `cl:` block: one training, with a method's penalties through a callback.

For those who lead the stream themselves. Task 2 goes on from the adapter of task 1, and EWC holds on to it:

    python examples/python/llamafactory_callback.py task1.yaml --task one --out out/ewc
    python examples/python/llamafactory_callback.py task2.yaml --task two --out out/ewc adapter_name_or_path=saves/one
"""

from __future__ import annotations

import argparse
import json

import yaml
from llamafactory.train.tuner import run_exp

from cl_plugins.callbacks import ContinualCallback


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a plain LLaMA-Factory YAML")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--task", required=True)
    parser.add_argument("--method", default="ewc")
    parser.add_argument("--options", type=json.loads, default={}, help="the method's options as JSON")
    parser.add_argument("--out", required=True)
    args = parser.parse_intermixed_args()  # overrides may stand behind the options

    with open(args.recipe, encoding="utf-8") as file:
        keys = yaml.safe_load(file)
    keys |= {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in args.overrides)}
    run_exp(keys, callbacks=[ContinualCallback(args.method, args.out, args.task, args.options)])


if __name__ == "__main__":
    main()

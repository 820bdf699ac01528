"""Pictures in every shape: a run's test items are token for token, and pixel for pixel, what the host itself would answer."""

from __future__ import annotations

import io
import json

import pytest
import tiny
import torch
from PIL import Image
from running import NO_TESTS, go, recipe, steps

from cl_plugins.contract.test_item import StoredMedia
from cl_plugins.host.session import Session
from cl_plugins.host.task_args import parse
from cl_plugins.streams import Task


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


SHAPES = {
    "two": lambda i: {"conversations": turns("<image><image>Which?", "A"), "images": [f"{i}.png", f"{i + 1}.png"]},
    "apart": lambda i: {"conversations": turns("First <image> then <image>", "B"), "images": [f"{i}.png", "2.png"]},
    "later": lambda i: {"conversations": turns("hello", "A", "<image>Which?", "B"), "images": [f"{i}.png"]},
    "texts": lambda i: {"conversations": turns(f"number {i}?", "C"), "images": []},
    "one name": lambda i: {"conversations": turns("<image>Which?", "B"), "images": f"{i}.png"},
    "mixed": lambda i: (SHAPES["texts"] if i % 2 else SHAPES["two"])(i),
    "nothing": lambda i: {"conversations": turns(f"number {i}?", "C"), "images": None},
}
TABLES = ("bytes", "pictures")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder with a data set of every shape, and parquet files that hold their pictures."""
    from datasets import Dataset
    from datasets import Image as Feature

    folder = tmp_path_factory.mktemp("shapes")
    for i in range(5):
        Image.new("RGB", (16 + i, 16), (50 * i, 20, 200 - 40 * i)).save(folder / f"{i}.png")
    about = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}}
    info = {}
    for name, made in SHAPES.items():
        (folder / f"{name}.json").write_text(json.dumps([{"id": f"{name}{i}", **made(i)} for i in range(3)]))
        info[name] = {"file_name": f"{name}.json", **about}
    rows = []
    for i in range(3):
        buffer = io.BytesIO()
        Image.open(folder / f"{i}.png").save(buffer, "PNG")
        pictures = [{"bytes": buffer.getvalue(), "path": None}]
        rows.append({"id": f"p{i}", "conversations": turns("<image>Which?", "A"), "images": pictures})
    plain = Dataset.from_list(rows)
    plain.to_parquet(folder / "bytes.parquet")
    plain.cast_column("images", [Feature()]).to_parquet(folder / "pictures.parquet")
    info |= {name: {"file_name": f"{name}.parquet", **about} for name in TABLES}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def batches(session, encoded):
    """Each row by itself, as the host's collator makes it."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask

    collator = SFTDataCollatorWith4DAttentionMask(
        template=session.template, model=None, label_pad_token_id=-100, **session.tokenizer_module
    )
    return [collator([row]) for row in encoded]


@pytest.mark.parametrize("name", [*SHAPES, *TABLES])
def test_items_are_the_hosts_own(name, llava, shapes):
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.data.processor import UnsupervisedDatasetProcessor

    keys = tiny.recipe(llava, shapes, shapes / "run")
    keys.pop("cl")
    args = parse({**keys, "dataset": name})
    session = Session(args)
    aligned = _get_merged_dataset([name], args.model, args.data, args.training, "sft")
    processor = UnsupervisedDatasetProcessor(
        template=session.template, data_args=args.data, **session.tokenizer_module
    )
    rows = [
        {key: value[0] for key, value in processor.preprocess_dataset({k: [v] for k, v in row.items()}).items()}
        for row in aligned
    ]
    items = session.test_items(Task(name="t", test=(name,)), keys, None)
    assert [item.tokens.tolist() for item in items] == [row["input_ids"] for row in rows]
    media = [item.media.load() if isinstance(item.media, StoredMedia) else item.media for item in items]
    ours = [{**row, **found} for row, found in zip(rows, media, strict=True)]
    for expected, found in zip(batches(session, rows), batches(session, ours), strict=True):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected if torch.is_tensor(expected[key]))


@pytest.mark.parametrize(
    "pair", [("bytes", "two"), ("two", "bytes"), ("two", "pictures"), ("pictures", "bytes"), ("bytes", "bytes")]
)
def test_replay_between_shapes(pair, llava, shapes, tmp_path):
    """Pictures as files, as bytes in a table and as pictures in a table, in one buffer."""
    keys = recipe(llava, shapes, tmp_path / "run", "seqlora", cl={"replay": {"capacity_per_task": 2}, **NO_TESTS})
    keys |= {"template": "llava", "additional_target": "multi_modal_projector"}
    keys["cl"]["stream"] = {"name": "s", "tasks": [{"name": n, "train": d} for n, d in zip("ab", pair, strict=True)]}
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"

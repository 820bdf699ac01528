"""Forms in which people keep their data: each gives the items that its author means, or is refused before the base loads."""

from __future__ import annotations

import csv
import io
import json

import pytest
import tiny

from cl_plugins.cli.validate import check_recipe
from cl_plugins.host.session import Session
from cl_plugins.host.task_args import parse
from cl_plugins.streams import Task


def rows(count=6, **more):
    return [
        {"id": f"q{i}", "instruction": f"Question {i}?", "input": "", "output": ["yes", "no"][i % 2], **more}
        for i in range(count)
    ]


def each(**values):
    """The rows, each with a value of its own; a list gives them in order."""
    return [{**row, **{key: value[i] for key, value in values.items()}} for i, row in enumerate(rows())]


def chats(*turns):
    return [{"id": f"c{i}", "messages": [{"role": r, "content": c} for r, c in turns]} for i in range(4)]


def table(records):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


LINES = "\n".join(map(json.dumps, rows()))
MARK = "\ufeff"
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
CHAT = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": {**TAGS, "system_tag": "system"}}
CALL = {"name": "get", "arguments": {}}
TOOLS = json.dumps([{"name": "get", "description": "g", "parameters": {"type": "object", "properties": {}}}])
CALLED = [
    {
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": f"Call {i}"},
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {**CALL, "arguments": "{}"}}]},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "It is 42"},
        ],
    }
    for i in range(2)
]  # fmt: skip
WITH_TOOLS = {
    "formatting": "openai",
    "columns": {"messages": "messages", "tools": "tools"},
    "tags": {**TAGS, "observation_tag": "tool", "function_tag": "function"},
}
PLAIN = [(f"q{i}", f"Question {i}?", ["yes", "no"][i % 2]) for i in range(6)]
ACCENTS = "Où? e\u0301ve\u0301nement \u2028 \u00a0"

# name -> (name of the file, its content, the rest of its entry, its items)
GOOD = {
    "a list": ("x.json", rows(), {}, PLAIN),
    "lines behind a mark": ("x.jsonl", MARK + LINES, {}, PLAIN),
    "lines that end as on Windows": ("x.jsonl", LINES.replace("\n", "\r\n") + "\r\n", {}, PLAIN),
    "lines in a file called json": ("x.json", LINES, {}, PLAIN),
    "a table": ("x.csv", table(rows()), {}, PLAIN),
    "a name with spaces": ("with space é.json", rows(), {}, PLAIN),
    "numbers as texts": ("x.json", each(output=["0.5"] * 6), {}, [(f"q{i}", f"Question {i}?", "0.5") for i in range(6)]),
    "whole numbers as ids": ("x.json", each(id=range(6)), {}, [(str(i), *PLAIN[i][1:]) for i in range(6)]),
    "ids for some": ("x.json", each(id=[None, 1] * 3)[:2], {}, [("t/0", *PLAIN[0][1:]), ("1", *PLAIN[1][1:])]),
    "ids that repeat beside others that do not": ("x.json", each(id=["img"] * 6, question_id=range(6)), {}, [(str(i), *PLAIN[i][1:]) for i in range(6)]),
    "a part of a split": ("x.json", rows(), {"split": "train[:3]"}, PLAIN[:3]),
    "history and system": ("x.json", rows(history=[["hi", "hello"]], system="Be short."), {"columns": {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}}, PLAIN),
    "a system turn": ("x.json", chats(("system", "Be short."), ("user", "a?"), ("assistant", "yes"))[:1], CHAT, [("c0", "a?", "yes")]),
    "an empty answer in the middle": ("x.json", chats(("user", "a?"), ("assistant", ""), ("user", "b?"), ("assistant", "yes"))[:1], CHAT, [("c0", "b?", "yes")]),
    "calls of tools": ("x.json", CALLED, WITH_TOOLS, [("t/0", "42", "It is 42"), ("t/1", "42", "It is 42")]),
}  # fmt: skip

# name -> (name of the file, its content, the rest of its entry, what is said)
BAD = {
    "a list behind a mark": ("x.json", MARK + json.dumps(rows()), {}, "byte order mark"),
    "numbers": ("x.json", each(output=range(6)), {}, "the answer of record 0 is the number 0; write it as text"),
    "booleans": ("x.json", each(output=[True, False] * 3), {}, "the answer of record 0 is the number True"),
    "numbers in a table": ("x.csv", table(each(output=range(6))), {}, "is the number 0; write it as text"),
    "numbers among texts": ("x.json", each(output=["a", 1] * 3), {}, "cannot be loaded"),
    "an empty answer": ("x.json", each(output=["a", "", "b", "c", "d", "e"]), {}, "the answer of 1 records is empty (first: 1)"),
    "a blank answer": ("x.json", each(output=["a", "b", " \n", "c", "d", "e"]), {}, "the answer of 1 records is empty (first: 2)"),
    "a missing answer": ("x.json", each(output=["a", "b", None, "c", "d", "e"]), {}, "the answer of record 2 is missing"),
    "cells that a reader of tables takes for missing": ("x.csv", table(each(output=["yes", "None", "NA", "null", "no", "nan"])), {}, "4 records are not a question with one answer (first: 1, 2, 3, 5)"),
    "ids that repeat": ("x.json", each(id=["a", "a", "b", "b", "c", "c"]), {}, "3 ids of its test set occur more than once"),
    "no column of answers": ("x.json", rows(), {"columns": {"prompt": "instruction"}}, "6 records are not a question with one answer"),
    "a split that is not there": ("x.json", rows(), {"split": "test"}, 'Unknown split "test"'),
    "preferences": ("x.json", rows(chosen="yes", rejected="no"), {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}, "not applicable in the current training stage"),
    "an assistant that begins": ("x.json", chats(("assistant", "Hi"), ("user", "a?"), ("assistant", "yes")), CHAT, "turns of user and assistant must alternate"),
    "a user that ends": ("x.json", chats(("user", "a?"), ("assistant", "yes"), ("user", "thanks")), CHAT, "turns of user and assistant must alternate"),
    "turns as text": ("x.json", [{**row, "messages": "hello"} for row in rows()], CHAT, "cannot be read as its entry in dataset_info.json says"),
    "turns that are missing": ("x.json", [{**row, "messages": None} for row in rows()], CHAT, "cannot be read as its entry in dataset_info.json says"),
    "turns without text": ("x.json", [{"messages": [{"role": "user"}, {"role": "assistant"}]}] * 3, CHAT, "cannot be read as its entry in dataset_info.json says (KeyError: 'content')"),
    "keys of another dialect": ("x.json", chats(("user", "a?"), ("assistant", "yes")), {"formatting": "sharegpt", "columns": {"messages": "messages"}}, "cannot be read as its entry in dataset_info.json says (KeyError: 'from')"),
    "turns in some records only": ("x.json", [*chats(("user", "a?"), ("assistant", "yes")), {"other": 1}], CHAT, "cannot be read as its entry in dataset_info.json says"),
    "no records but numbers": ("x.json", [1, 2, 3], CHAT, "cannot be read as its entry in dataset_info.json says (KeyError: 'messages')"),
    "a column that is not there": ("x.json", rows(), {"columns": {"prompt": "question", "response": "output"}}, "cannot be read as its entry in dataset_info.json says (KeyError: 'question')"),
    "an unknown formatting": ("x.json", rows(), {"formatting": "chat"}, "converter chat not found"),
    "columns as a list": ("x.json", rows(), {"columns": ["instruction", "output"]}, "`columns` is ['instruction', 'output']"),
    "tags as a text": ("x.json", rows(), {"tags": "role"}, "`tags` is 'role'"),
    "a system prompt that is no text": ("x.json", [{**row, "system": [1]} for row in rows()], {"columns": {"prompt": "instruction", "response": "output", "system": "system"}}, "can only concatenate"),
    "other tags": ("x.json", chats(("human", "a?"), ("gpt", "yes")), CHAT, "turns of user and assistant must alternate"),
}  # fmt: skip


@pytest.fixture
def recipe(llama, tmp_path):
    def make(name, content, entry):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_bytes(text.encode())
        (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": name, **entry}}))
        keys = tiny.recipe(llama, tmp_path, tmp_path / "run", "seqlora", text_only=True, cutoff_len=512)
        keys["cl"]["stream"] = {"name": "s", "tasks": [{"name": "t", "train": "x", "test": "x"}]}
        return keys

    return make


#: The recipes train on what they test.
TRAINED = "task 't' trains on 'x', which has the same content as the test set 'x' of task 't': its scores measure what was learned by heart"


@pytest.mark.parametrize("form", GOOD)
def test_forms_that_are_read(form, recipe):
    name, content, entry, items = GOOD[form]
    keys = recipe(name, content, entry)
    assert check_recipe(keys) == ([], [TRAINED])
    keys.pop("cl")
    session = Session(parse({**keys, "dataset": "x"}))
    found = session.test_items(Task(name="t", test=("x",)), keys, None)
    assert [(item.id, item.prompt, item.reference) for item in found] == items


@pytest.mark.parametrize("form", BAD)
def test_forms_that_are_refused(form, recipe):
    name, content, entry, said = BAD[form]
    problems, _ = check_recipe(recipe(name, content, entry))
    assert any(said in problem.what for problem in problems), problems


def test_characters_are_kept_as_they_are(recipe):
    keys = recipe("x.json", each(instruction=[ACCENTS] * 6, output=["e\u0301te\u0301"] * 6), {})
    keys.pop("cl")
    session = Session(parse({**keys, "dataset": "x"}))
    item = session.test_items(Task(name="t", test=("x",)), keys, None)[0]
    assert item.prompt == ACCENTS


def test_files_of_a_folder(recipe, tmp_path):
    """All files of a folder are one data set; what is no data is named."""
    keys = recipe("unused.json", [], {})
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "ba":
        (folder / f"{name}.json").write_text(json.dumps([{**row, "id": name + row["id"]} for row in rows(2)]))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": "folder"}}))
    assert check_recipe(keys) == ([], [TRAINED])
    (folder / ".DS_Store").write_bytes(b"\0")
    (problem,) = check_recipe(keys)[0]
    assert ".DS_Store" in problem.what
    (folder / ".DS_Store").unlink()
    (folder / "c.csv").write_text(table(rows()))
    (problem,) = check_recipe(keys)[0]
    assert "a.json, c.csv" in problem.what
    (folder / "c.csv").unlink()
    (folder / "deeper").mkdir()
    (problem,) = check_recipe(keys)[0]
    assert "contains folders (deeper)" in problem.what

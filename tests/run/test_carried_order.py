"""What a recipe says to the carry that it starts from: the order of the tasks, samples that are not there, other keys."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import tiny
import yaml
from running import copy_of, go, load, recipe, steps

from cl_plugins.base.errors import Problem, RecipeError
from cl_plugins.cli import main
from cl_plugins.recipe import parse_cl
from cl_plugins.run import check
from cl_plugins.run.packing import pack
from cl_plugins.run.sender import Sender, order_problems, other_keys, remarks


REPLAY = {"replay": {"capacity_per_task": 3}}


def site(base, data, out, only, carry=None, tasks=("one", "two"), cl=None, **more):
    block = {"only": only, "stream": tiny.stream(tasks), **(cl or {})}
    if carry is not None:
        block["carry_from"] = str(carry)
    return recipe(base, data, out, "inclora", tasks, cl=block, **{"max_steps": 1, **more})


@pytest.fixture(scope="module")
def first(llama, text_data, tmp_path_factory):
    """A site that has learned `one`, with replay."""
    out = tmp_path_factory.mktemp("first") / "run"
    go(site(llama, text_data, out, "one", cl=REPLAY))
    pack(out, out.parent / "plain.zip")
    pack(out, out.parent / "full.zip", with_replay=True)
    return out


@pytest.fixture(scope="module")
def without(llama, text_data, tmp_path_factory):
    """The same without replay."""
    out = tmp_path_factory.mktemp("without") / "run"
    go(site(llama, text_data, out, "one"))
    pack(out, out.parent / "plain.zip")
    return out


def config(names=("a", "b", "c"), **block):
    stream = {"name": "s", "tasks": [{"name": name, "train": "x", "test": "y"} for name in names]}
    return parse_cl({"stream": stream, "method": "inclora", "carry_from": "before", **block})


def refused(keys):
    with pytest.raises(RecipeError) as found:
        go(keys)
    return found.value.problems


# --- the order


@pytest.mark.parametrize("carry", ["run", "plain.zip"])
def test_a_task_of_the_carry_that_comes_later_is_refused(first, llama, text_data, tmp_path, carry):
    source = first.parent / carry
    keys = site(llama, text_data, tmp_path / "run", "two", source, ("two", "one"))
    assert refused(keys) == [
        Problem(
            f"cl.carry_from: {source}",
            "'one' is learned already and comes after 'two' in this order.",
            "Put it first: `cl.order: [one, two]`.",
        )
    ]
    assert not (tmp_path / "run" / "run.json").exists()


def test_an_order_or_a_seed_is_named_and_the_fix_works(first, llama, text_data, tmp_path):
    seed = next(n for n in range(9) if _shuffled(n) == ["two", "one"])
    what = "'one' is learned already and comes after 'two' in this order."
    for cl, problem in (
        ({"order": ["two", "one"]}, Problem("cl.order", what, "Put it first: `cl.order: [one, two]`.")),
        (
            {"order_seed": seed},
            Problem("cl.order_seed", what, "Put it first: `cl.order: [one, two]` instead of `cl.order_seed`."),
        ),
    ):
        assert refused(site(llama, text_data, tmp_path / "run", "two", first, cl=cl)) == [problem]
    go(site(llama, text_data, tmp_path / "run", "two", first, ("two", "one"), cl={"order": ["one", "two"]}))
    assert load(tmp_path / "run", "matrix.json")["tasks"] == ["one", "two"]


def _shuffled(seed):
    names = ["one", "two"]
    random.Random(seed).shuffle(names)
    return names


def test_all_problems_come_at_once(first, llama, text_data, tmp_path, capsys):
    run = tmp_path / "before"
    copy_of(first, run)
    keys = site(llama, text_data, tmp_path / "run", "two", run, ("two", "one"), cl={"method": {"name": "seqlora"}})
    keys["lora_rnak"] = 3
    found = refused(keys)
    assert {problem.where for problem in found} >= {"lora_rnak", f"cl.carry_from: {run}"}
    texts = " ".join(problem.what for problem in found)
    assert "was made by 'inclora', not by 'seqlora'" in texts
    assert "comes after 'two' in this order" in texts
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys))
    for command in (["validate", "--quick"], ["plan"]):
        assert main([*command, str(tmp_path / "r.yaml")]) == 2
        out = " ".join("".join(capsys.readouterr()).split())
        assert "'one' is learned already and comes after 'two' in this order." in out
        assert "lora_rnak" in out


@pytest.mark.parametrize(
    ("names", "only", "learned", "problem"),
    [
        (("a", "b", "c"), "b", ("a",), None),
        (("a", "b", "c"), "c", ("a",), None),  # `b` is skipped, which is a remark
        (("a", "b", "c"), "c", ("b",), None),
        (("a", "b", "c"), "c", ("a", "x", "b"), None),  # an unknown task is another problem
        (("a", "b", "c"), "b", ("b",), None),  # so is a task that is learned already
        (("a", "b", "c"), "a", ("c",), ("'c' is learned already and comes after 'a' in this order.", "it", "c, a, b")),
        (
            ("a", "b", "c"), "a", ("c", "b"),
            ("'c' and 'b' are learned already and come after 'a' in this order.", "them", "c, b, a"),
        ),
        (("a", "b", "c"), "b", ("a", "c"), ("'c' is learned already and comes after 'b' in this order.", "them", "a, c, b")),
        (
            ("a", "b", "c"), "c", ("b", "a"),
            ("the tasks of the carry were learned in the order b, a, and this order has a, b.", "them", "b, a, c"),
        ),
    ],
)  # fmt: skip
def test_the_carry_is_a_beginning_of_the_order(names, only, learned, problem):
    expected = []
    if problem is not None:
        what, it, order = problem
        expected = [Problem("cl.carry_from: before", what, f"Put {it} first: `cl.order: [{order}]`.")]
    assert order_problems(config(names, only=only), learned) == expected


def test_a_run_that_had_begun_before_goes_on_with_a_remark(first, llama, text_data, tmp_path, monkeypatch, capsys):
    keys = site(llama, text_data, tmp_path / "run", "two", first, ("two", "one"), cl={"stop_after": 2})
    with monkeypatch.context() as earlier:
        earlier.setattr(check, "order_problems", lambda *args: [])
        go(keys)
    del keys["cl"]["stop_after"]
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"
    remark = (
        "one was learned before two and stands after it in this order: A_k leaves such tasks out, and FWT counts them as "
        "forward transfer."
    )
    assert remark in load(tmp_path / "run", "run.json")["notes"]
    go(keys)
    assert main(["report", str(tmp_path / "run")]) == 0
    assert remark in " ".join(capsys.readouterr().out.split())
    assert main(["compare", str(tmp_path / "run"), str(first), "--out", str(tmp_path / "compared")]) == 0
    keys["cl"]["restart"] = True
    assert "in this order" in refused(keys)[0].what
    assert steps(tmp_path / "run")[-1] == "finish"


# --- samples that are not there


LEFT_OUT = "The carry has no kept samples of one (3 were left out by the sender): they are not replayed."
NEVER = "No samples of one were kept: the carry has none to replay."
DROPPED = "The carry has kept samples (one 3), and `cl.replay` is off: they are not replayed and not passed on."


@pytest.mark.parametrize(
    ("source", "kept", "cl", "remark"),
    [
        ("first", "plain.zip", REPLAY, LEFT_OUT),
        ("without", "plain.zip", REPLAY, NEVER),
        ("without", "run", REPLAY, NEVER),
        ("first", "full.zip", {}, DROPPED),
        ("first", "run", {}, DROPPED),
        ("first", "full.zip", REPLAY, None),
        ("first", "plain.zip", {}, None),
    ],
)
def test_samples_that_are_not_replayed_are_told(
    request, llama, text_data, tmp_path, caplog, capsys, source, kept, cl, remark
):
    original = request.getfixturevalue(source).parent / kept
    carry = (
        copy_of(original, tmp_path / f"received_{kept}")
        if original.is_dir()
        else Path(shutil.copy(original, tmp_path / f"received_{kept}"))
    )
    capsys.readouterr()
    keys = site(llama, text_data, tmp_path / "run", "two", carry, cl=cl)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(keys))
    told = [remark] if remark else []
    assert main(["plan", str(tmp_path / "r.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == told
    assert main(["validate", "--quick", str(tmp_path / "r.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[str(tmp_path / "r.yaml")]["notes"] == told
    go(keys)
    assert [note for note in load(tmp_path / "run", "run.json")["notes"] if "samples" in note] == told
    assert [r.levelname for r in caplog.records if remark and r.getMessage() == remark] == ["WARNING"] * len(told)
    if remark:
        assert main(["report", str(tmp_path / "run")]) == 0
        assert remark in " ".join(capsys.readouterr().out.split())


def test_lost_and_never_kept_samples_of_several_tasks():
    sender = Sender("inclora", ("a", "b", "c"), {"c": 2}, {"a": 1})
    assert remarks(config(("a", "b", "c", "d"), only="d", **REPLAY), sender) == [
        "The carry has no kept samples of a (1 was left out by the sender): they are not replayed.",
        "No samples of b were kept: the carry has none to replay.",
    ]


# --- keys


def test_keys_that_differ_from_those_of_the_sender_are_logged(first, llama, text_data, tmp_path, caplog):
    keys = site(llama, text_data, tmp_path / "run", "two", first.parent / "full.zip", cl=REPLAY)
    go({**keys, "default_system": "Be brief.", "cutoff_len": keys["cutoff_len"] + 8, "image_max_pixels": 6000})
    found = [r.getMessage() for r in caplog.records if "the recipe of the site before differs" in r.getMessage()]
    assert [line.rpartition("differs: ")[2] for line in found] == [
        f"cutoff_len is {keys['cutoff_len'] + 8} here and {keys['cutoff_len']} there",
        "default_system is 'Be brief.' here and not set there",
        "image_max_pixels is 6000 here and not set there",
    ]


def test_keys_of_an_unknown_sender_are_not_compared():
    assert other_keys({"cutoff_len": 3}, Sender("inclora", ("a",))) == []
    known = Sender("inclora", ("a",), keys={"template": "llava", "cutoff_len": 3})
    assert other_keys({"cutoff_len": 3, "output_dir": str(Path("/x"))}, known) == [
        "template is not set here and 'llava' there"
    ]

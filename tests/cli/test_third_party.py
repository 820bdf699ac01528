"""Packages of others register methods, scorers and streams; what is broken in one affects nothing else."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError
from cl_plugins.evaluation.functions import score
from cl_plugins.evaluation.scorers import SCORERS, get_scorer, list_scorers, register
from cl_plugins.methods.registry import METHODS, get_method
from cl_plugins.streams import builtin_streams, load_stream
from cl_plugins.streams.loader import STREAMS


FOLDER = Path(__file__).parents[1] / "third_party"
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
REGISTRIES = {"methods": METHODS, "scorers": SCORERS, "streams": STREAMS}


@pytest.fixture
def fresh(monkeypatch):
    """Registries that look for entry points again, before and after the test; modules of packages are forgotten."""

    def refresh():
        importlib.invalidate_caches()
        for registry in REGISTRIES.values():
            registry.refresh()

    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.refresh = refresh
        yield patch
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"lab_extras", "other_lab", "one_more"}:
            del sys.modules[name]
    refresh()


@pytest.fixture
def lab(fresh):
    """The package in ``tests/third_party``."""
    fresh.syspath_prepend(str(FOLDER))
    fresh.refresh()


@pytest.fixture
def install(fresh, tmp_path):
    """Install a distribution of one module with one entry point."""

    def make(group, name, value, source, distribution="other-lab"):
        module = distribution.replace("-", "_")
        info = tmp_path / distribution / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info.parent / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cl_plugins.{group}]\n{name} = {module}:{value}\n")
        fresh.syspath_prepend(str(info.parent))
        fresh.refresh()

    return make


def entry(kind, name):
    return next(entry for entry in REGISTRIES[kind].entries() if entry.name == name)


# --- a package as it should be --------------------------------------------------------------------------------------------


def test_the_page_shows_the_code_that_is_tested_here():
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for file in ("scorers.py", "streams.py", "two_sites.yaml"):
        code = (FOLDER / "lab_extras" / file).read_text()
        assert {code, f"# lab_extras/{file}\n{code}"} & set(blocks), f"{file} and docs/extending.md differ"
    declared = (FOLDER / "lab_extras-1.0.dist-info" / "entry_points.txt").read_text().replace(" = ", " ")
    for group, name, value in re.findall(
        r'^\[project\.entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', PAGE.read_text(), re.M
    ):
        assert name == "my_method" or (f"[{group}]" in declared and f"{name} {value}" in declared)


def test_a_scorer_of_another_package_scores(lab):
    assert "last_number" in list_scorers()
    found = score("last_number@1", ["I count 3 of 5", "three", "-2.0"], ["5", "3", "-2"])
    assert (found.score, found.scorer, found.items) == (pytest.approx(200 / 3), "last_number@1", (100.0, 0.0, 100.0))
    assert found.interval[0] < found.score < found.interval[1]
    with pytest.raises(DataError, match="holds no number"):
        score("last_number", ["1"], ["none"])
    with pytest.raises(RecipeError, match=r"version 1 here, not '2'"):
        get_scorer("last_number@2")


def test_a_stream_of_another_package_is_found_by_recipes(lab):
    from cl_plugins.recipe import parse_cl

    stream = parse_cl({"stream": "two_sites", "method": {"name": "seqlora"}}).stream
    assert stream.task_names == ("north", "south")
    assert {task.scorer for task in stream.tasks} == {"last_number"}


def test_lists_name_the_package(lab, cli):
    value = json.loads(cli("list", "--json")[1])
    for kind, name in (("scorers", "last_number"), ("streams", "two_sites")):
        packages = {item["name"]: item["distribution"] for item in value[kind]}
        assert packages.pop(name) == "lab-extras"
        assert set(packages.values()) == {"cl-plugins"}
    out = cli("list", "scorers")[1]
    assert "(package lab-extras)" in " ".join(out.split())
    assert cli("list", "streams")[1].count("lab-extras") == 1


def test_without_the_package_the_names_are_unknown():
    with pytest.raises(RecipeError, match="there is no scorer called 'last_number'"):
        get_scorer("last_number")
    with pytest.raises(RecipeError, match=r"there is no stream called 'two_sites'.*path of a stream file"):
        load_stream("two_sites")


# --- packages with faults -------------------------------------------------------------------------------------------------

SCORER = """
class Mine:
    name, version, key, summary = "mine", 1, "mine@1", "mine"
    def score(self, items, *, seed=0): ...
"""
STREAM = {"name": "mine", "tasks": [{"name": "a", "train": "a", "test": "a"}]}


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        *(
            (kind, source, reason)
            for kind in REGISTRIES
            for source, reason in (
                ("import a_package_that_is_missing", "ModuleNotFoundError: No module named 'a_package_that_is_missing'"),
                ("import sys; sys.exit(3)", "it calls sys.exit(3) when it is imported"),
                ("1 / 0", "ZeroDivisionError"),
                ("", "AttributeError"),
            )
        ),
        ("scorers", "Mine = 3", "lacks name, version, key, summary, score"),
        ("scorers", SCORER.replace('"mine", 1', '"other", 1'), "calls itself 'other'"),
        ("scorers", SCORER.replace("1, ", "'1', "), "version is '1'"),
        ("scorers", SCORER.replace("mine@1", "mine"), "key is 'mine', not 'mine@1'"),
        ("scorers", f"{SCORER}    def __init__(self, needed): ...\n", "TypeError"),
        ("streams", "Mine = 3", "int is neither a mapping nor a file"),
        ("streams", f"Mine = {STREAM | {'name': 'other'}}", "calls itself 'other'"),
        ("streams", f"Mine = {STREAM | {'taks': []}}", "mine.taks: is not a known key. Did you mean 'tasks'?"),
        ("streams", "from pathlib import Path\nMine = Path('nowhere.yaml')", "FileNotFoundError"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_listed_with_its_reason(install, cli, kind, source, reason):
    install(kind, "mine", "Mine", source)
    broken = entry(kind, "mine")
    assert (broken.distribution, broken.value) == ("other-lab", None)
    assert reason in broken.error
    ask = {"methods": get_method, "scorers": get_scorer, "streams": load_stream}[kind]
    with pytest.raises(RecipeError, match=r"mine.*other-lab.*Repair or uninstall 'other-lab'"):
        ask("mine")
    assert get_method("inclora").name == "inclora"
    assert get_scorer("bleu").name == "bleu"
    assert load_stream("medical_cl").name == "medical_cl"
    code, out, _ = cli("list", kind)
    assert code == 0
    assert "BROKEN" in out
    assert "other-lab" in out


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("1 / 0", "failed (ZeroDivisionError"),
        ("50.0", "returned float, not a TaskScore"),
        ("TaskScore('mine@1', float('nan'), 2, (0.0, 1.0), 'wilson')", "'score' is nan: it should be a finite number"),
        (
            "TaskScore('mine@1', 250.0, 2, (0.0, 1.0), 'wilson')",
            "'score' is 250.0: it should be less than or equal to 100",
        ),
        (
            "TaskScore('mine@1', 50.0, 2, (0.0, 101.0), 'wilson')",
            "'interval[1]' is 101.0: it should be less than or equal to 100",
        ),
        ("TaskScore('mine@1', 50.0, 1, (0.0, 1.0), 'wilson')", "n = 1 for 2 items"),
        ("TaskScore('mine@1', 50.0, 2, (0.0, 1.0), 'wilson', (1.0,))", "1 item scores for 2 items"),
        ("TaskScore('bleu@1', 50.0, 2, (0.0, 1.0), 'wilson')", "signed its score with 'bleu@1'"),
        ("TaskScore('mine@1', 50.0, 2, (0.0, 1.0), 'wilson', (), {'x': {1, 2}})", "JSON cannot represent"),
    ],
)
def test_what_a_scorer_of_another_package_returns_is_checked(install, result, reason):
    source = f"from cl_plugins.evaluation import TaskScore\n{SCORER.replace('...', f'return {result}')}"
    install("scorers", "mine", "Mine", source)
    with pytest.raises(DataError, match="other-lab") as caught:
        score("mine", ["a", "b"], ["a", "c"])
    assert reason in str(caught.value)


VARIANTS = """
from cl_plugins.evaluation import TaskScore
from cl_plugins.evaluation.scorers import BaseScorer
class Mine(BaseScorer):
    name, version, summary, variants = "mine", 1, "mine", ("strict", "kind")
    def score(self, items, *, seed=0):
        variant = self.variant or "kind"
        return TaskScore(f"mine:{variant}@1", 50.0 + (variant == "kind"), len(items), (0.0, 100.0), "wilson")
"""


def test_a_scorer_of_another_package_may_have_variants(install):
    install("scorers", "mine", "Mine", VARIANTS)
    assert score("mine", ["a"], ["a"]).scorer == "mine:kind@1"
    assert score("mine:strict@1", ["a"], ["a"]).score == 50.0
    with pytest.raises(RecipeError, match="variant 'strikt'"):
        score("mine:strikt", ["a"], ["a"])


def test_a_file_that_holds_no_yaml_is_broken(install, tmp_path):
    (tmp_path / "bad.yaml").write_text("name: [")
    install("streams", "mine", "Mine", f"from pathlib import Path\nMine = Path({str(tmp_path / 'bad.yaml')!r})")
    assert "is not valid YAML" in entry("streams", "mine").error


@pytest.mark.parametrize(("kind", "name"), [("methods", "inclora"), ("scorers", "bleu"), ("streams", "medical_cl")])
def test_nobody_takes_one_of_our_names(install, cli, kind, name):
    install(kind, name, "Mine", SCORER)
    code, _, err = cli("list", kind)
    assert code == 1
    words = " ".join(err.split())
    assert name in words
    assert "other-lab" in words
    assert "cl-plugins" in words
    with pytest.raises(CompatibilityError):
        {"methods": get_method, "scorers": get_scorer, "streams": load_stream}[kind](name)


@pytest.mark.parametrize("kind", list(REGISTRIES))
def test_two_packages_with_one_name_are_both_named(install, kind):
    install(kind, "mine", "Mine", SCORER)
    install(kind, "mine", "Mine", SCORER, distribution="one-more")
    with pytest.raises(CompatibilityError, match=r"'mine'.*(one-more.*other-lab|other-lab.*one-more)"):
        REGISTRIES[kind].names()


def test_registering_in_a_process_respects_the_names_of_packages(lab):
    class Mine(type(get_scorer("bleu"))):
        name = "last_number"

    with pytest.raises(RecipeError, match="registered already"):
        register(Mine())


def test_every_built_in_stream_is_registered():
    assert set(builtin_streams()) <= set(STREAMS.names())
    for found in STREAMS.entries():
        assert found.error is None, found

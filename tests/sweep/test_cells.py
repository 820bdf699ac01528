"""The product of recipes, methods, seeds and orders; what makes a cell another one; refused words."""

from __future__ import annotations

import json
import re

import pytest
from made_cells import TASKS, cells, recipe

from cl_plugins.base.errors import RecipeError
from cl_plugins.sweep.cells import make_cells, read_seeds


def test_every_combination_once_seed_by_seed(tmp_path):
    made = cells(tmp_path, methods=["olora", "seqlora"], seeds=[0, 1], orders=["given", "three,two,one"])
    assert [(c.seed, c.order_name, c.method) for c in made] == [
        (seed, order, method)
        for seed in (0, 1)
        for order in ("given", "three-two-one")
        for method in ("olora", "seqlora")
    ]
    assert len({c.id for c in made}) == 8
    assert all(re.fullmatch(r"(olora|seqlora)-s\d-[a-z-]+-[0-9a-f]{8}", c.id) for c in made)
    assert all(c.started()["output_dir"] == str(tmp_path / c.id) for c in made)
    assert [c.started()["seed"] for c in made] == [c.seed for c in made]


def test_a_combination_that_is_asked_for_twice_is_run_once(tmp_path):
    assert len(cells(tmp_path, seeds=[0, 0], orders=["given", ",".join(TASKS)], methods=["olora", "olora"])) == 1


def test_without_options_the_recipe_as_it_is(tmp_path):
    (cell,) = cells(tmp_path)
    assert (cell.recipe, cell.seed, cell.order, cell.order_name) == ("toy", 7, tuple(TASKS), "given")
    assert {**cell.started(), "output_dir": "out"} == recipe()


def test_a_method_keeps_the_options_of_its_own_recipe_alone(tmp_path):
    own, other = cells(tmp_path, methods=["olora", "seqlora"])
    assert own.keys["cl"]["method"] == {"name": "olora", "lambda_1": 0.25}
    assert other.keys["cl"]["method"] == {"name": "seqlora"}
    assert other.keys["cl"]["stream"] == own.keys["cl"]["stream"]


def test_cells_are_named_by_recipe_and_method(tmp_path):
    two = [("a", recipe()), ("b", recipe(learning_rate=0.5))]
    assert [c.recipe for c in make_cells(two, tmp_path)] == ["a", "b"]
    assert [c.recipe for c in make_cells(two, tmp_path, methods=["ewc"])] == ["a-ewc", "b-ewc"]
    assert [c.recipe for c in make_cells(two[:1], tmp_path, methods=["ewc"])] == ["ewc"]


def test_orders_are_drawn_as_the_recipe_draws_them(tmp_path):
    (drawn,) = cells(tmp_path, orders=["seed:3"])
    (same,) = make_cells([("toy", recipe(cl={"order_seed": 3}))], tmp_path)
    assert drawn.order == same.order != tuple(TASKS)
    assert drawn.order_name == "seed3"
    assert drawn.keys["cl"]["order_seed"] == 3
    (back,) = make_cells([("toy", recipe(cl={"order_seed": 3}))], tmp_path, orders=[",".join(TASKS)])
    assert back.order == tuple(TASKS)
    assert "order_seed" not in back.keys["cl"]


def test_the_name_of_a_cell_says_what_it_computes(tmp_path):
    """The name stands in ledgers that exist: a change of it would run every cell of a benchmark again."""
    (cell,) = cells(tmp_path)
    assert cell.id == "toy-s7-given-e2deae01"
    assert cell.recipe_sha256[:8] == "d9d57796"
    for change in ({"learning_rate": 1}, {"cl": {"keep": "last"}}):
        (other,) = make_cells([("toy", recipe(**change))], tmp_path)
        assert other.id != cell.id, change
    for change in ({"logging_steps": 1}, {"save_steps": 7}, {"output_dir": "elsewhere"}):
        (other,) = make_cells([("toy", recipe(**change))], tmp_path)
        assert other.id == cell.id, change


def test_repetitions_have_one_hash(tmp_path):
    made = cells(tmp_path, seeds=[0, 1], orders=["given", "three,one,two", "seed:1"])
    assert len({c.recipe_sha256 for c in made}) == 1
    assert len({c.sha256 for c in made}) == len(made)


def test_other_data_are_another_cell(tmp_path):
    found = set()
    for digest in ("a", "b"):
        (tmp_path / "manifest.json").write_text(json.dumps({"datasets": {"x": {"sha256": digest}}}))
        (cell,) = make_cells([("toy", recipe(dataset_dir=str(tmp_path)))], tmp_path)
        found.add(cell.id)
    assert len(found) == 2


def test_every_problem_of_every_recipe_at_once(tmp_path):
    with pytest.raises(RecipeError) as error:
        make_cells([("toy", recipe())], tmp_path, methods=["olorra", "ewcc"], orders=["given", "one,two"])
    told = str(error.value)
    for word in ("Did you mean 'olora'?", "Did you mean 'ewc'?", "List each of these once"):
        assert word in told
    with pytest.raises(RecipeError, match="seed: is 'x'"):
        make_cells([("toy", recipe(seed="x"))], tmp_path)
    with pytest.raises(RecipeError, match="names no seed"):
        cells(tmp_path, orders=["seed:x"])


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["0-4"], [0, 1, 2, 3, 4]),
        (["0,2,1"], [0, 2, 1]),
        (["3", "1-2", "3"], [3, 1, 2]),
        (["4-4,9"], [4, 9]),
        ([], []),
    ],
)
def test_seeds(words, seeds):
    assert read_seeds(words) == seeds


@pytest.mark.parametrize("word", ["a", "4-2", "-1", "1-", "1.5", "", "4294967296", "0-99999999", "0-1-2"])
def test_words_that_are_no_seeds(word):
    with pytest.raises(RecipeError, match="--seeds"):
        read_seeds([word])

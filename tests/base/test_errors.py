"""What several problems look like together."""

from __future__ import annotations

from cl_plugins.base.errors import Problem, RecipeError, same_cause_once
from cl_plugins.cli import output


def missing(*places):
    return [Problem(place, "is missing.", "Restore it.") for place in places]


def test_one_cause_in_several_places_is_said_once(capsys):
    problems = [*missing("a", "b"), Problem("c", "is 3.", "Use 4."), *missing("d", "a")]
    error = RecipeError(problems)
    assert str(error) == "The recipe has problems:\n  - a, b, d: is missing. Restore it.\n  - c: is 3. Use 4."
    assert error.problems == problems
    output.show_problems(problems)
    shown = capsys.readouterr().out
    assert shown.count("is missing.") == 1
    assert "a, b, d" in shown


def test_many_places_are_counted():
    (problem,) = same_cause_once(missing(*"abcdefg"))
    assert problem.where == "a, b, c, d and 3 more"
    assert str(RecipeError(missing("a", "b"))) == "a, b: is missing. Restore it."


def test_other_faults_and_other_remedies_stay_apart():
    problems = [Problem("a", "is 1.", "Use 2."), Problem("b", "is 1.", "Use 3."), Problem("c", "is 2.", "Use 2.")]
    assert same_cause_once(problems) == problems

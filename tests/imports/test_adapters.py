"""`cl-plugins import run`: adapters of LLaVA's trainer, with the projector in ``non_lora_trainables.bin``."""

from __future__ import annotations

import json

import authors
import pytest
import torch
from safetensors.torch import load_file

from cl_plugins.cli import main


RANK, ALPHA = 4, 8
SCALING = ALPHA / RANK


def checkpoints(folder, tasks=("one", "two"), projector=True, **more):
    """A folder of LLaVA's trainer for each task."""
    found = {}
    for i, task in enumerate(tasks):
        whole = authors.projector_state(50 + i) if projector else None
        found[task] = authors.save_lora(folder / task, authors.factors(RANK, 10 + i), RANK, ALPHA, whole, **more)
    return found


def truth(llava, made, projector=None):
    """Logits of the base with LoRAs, and with another projector."""
    model = authors.load(llava)
    with authors.with_terms(model, authors.lora_terms(made, SCALING)), torch.no_grad():
        if projector is None:
            return model(**authors.inputs(llava)).logits
        with authors.with_projector(model, projector):
            return model(**authors.inputs(llava)).logits


def ours(root, task, llava, scratch, after=None):
    with authors.answering(root, task, scratch, after) as model, torch.no_grad():
        return model(**authors.inputs(llava)).logits


def test_one_adapter_continues_from_task_to_task(make, llava, tmp_path):
    code, root = make("seqlora", checkpoints(tmp_path / "theirs"))
    assert code == 0
    for number, (task, after) in enumerate((("one", "one"), ("two", None))):
        made, projector = [authors.factors(RANK, 10 + number)], authors.projector_state(50 + number)
        assert authors.close(ours(root, task, llava, tmp_path, after), truth(llava, made, projector))
    carry = json.loads((root / "carry" / "carry.json").read_text())
    assert carry["tasks"] == ["one", "two"]
    assert carry["meta"]["adapter"]["scaling"] == SCALING


def test_the_adapter_of_the_last_task_alone(make, llava, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs")
    code, root = make("seqlora", {"two": theirs["two"]})
    assert code == 0
    assert "the models after one" in capsys.readouterr().out
    made, projector = [authors.factors(RANK, 11)], authors.projector_state(51)
    assert authors.close(ours(root, "two", llava, tmp_path), truth(llava, made, projector))
    assert json.loads((root / "carry" / "carry.json").read_text())["tasks"] == ["one", "two"]
    assert main(["evaluate", str(root), "--after", "one", "--out", str(tmp_path / "out")]) != 0
    assert "no checkpoint of the training of 'one'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["inclora", "olora"])
def test_a_chain_adds_up(make, llava, tmp_path, method):
    code, root = make(method, checkpoints(tmp_path / "theirs"))
    assert code == 0
    both = [authors.factors(RANK, 10), authors.factors(RANK, 11)]
    assert authors.close(ours(root, "two", llava, tmp_path), truth(llava, both, authors.projector_state(51)))
    assert authors.close(
        ours(root, "one", llava, tmp_path, "one"), truth(llava, both[:1], authors.projector_state(50))
    )


def test_a_chain_needs_every_checkpoint(make, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs")
    code, root = make("inclora", {"two": theirs["two"]})
    assert code != 0
    assert "one= is missing" in " ".join(capsys.readouterr().err.split())
    assert not root.exists()


def test_other_ways_to_name_the_same_layers(make, llava, tmp_path):
    """Adapters of Transformers 4 and 5 on a LLaVA in their layout."""
    theirs = checkpoints(tmp_path / "theirs", projector=False)
    for task, inner in (("one", "language_model.model."), ("two", "model.language_model.")):
        file = theirs[task] / "adapter_model.bin"
        state = torch.load(file, weights_only=True)
        renamed = {
            name.replace("base_model.model.model.", f"base_model.model.{inner}"): v for name, v in state.items()
        }
        torch.save(renamed, file)
    code, root = make("inclora", theirs, additional_target=None)
    assert code == 0
    both = [authors.factors(RANK, 10), authors.factors(RANK, 11)]
    assert authors.close(ours(root, "two", llava, tmp_path), truth(llava, both))


def test_what_is_written_says_where_it_comes_from(make, tmp_path):
    _, root = make("seqlora", checkpoints(tmp_path / "theirs"))
    info = json.loads((root / "run.json").read_text())
    assert set(info["imported"]["files"]) == {
        f"{task}: {name}" for task in ("one", "two") for name in ("adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin")
    }  # fmt: skip
    assert any("adapter_model.bin" in note and "imported" in note for note in info["notes"])
    assert info["seed"] is None
    names = set(load_file(root / "tasks" / "01_one" / "update.safetensors"))
    assert any(name.endswith("multi_modal_projector.linear_1.weight") for name in names)


def test_all_problems_at_once_and_nothing_is_written(make, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs")
    state = torch.load(theirs["one"] / "adapter_model.bin", weights_only=True)
    del state["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    state["base_model.model.model.layers.0.mlp.up_proj.bias"] = torch.zeros(3)
    torch.save(state, theirs["one"] / "adapter_model.bin")
    (theirs["two"] / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": true}'
    )
    code, root = make("seqlora", theirs)
    told = capsys.readouterr().err
    assert code != 0
    assert "up_proj.bias" in told
    assert "use_dora" in told
    assert not root.exists()
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_rank": 8, "lora_alpha": 16}, "lora_rank is 8 in the recipe"),
        ({"lora_alpha": 4}, "lora_alpha gives the low-rank terms the factor 1"),
        ({"additional_target": None}, "Set `additional_target: multi_modal_projector`"),
        ({"lora_target": "q_proj,v_proj"}, "is there, and the recipe does not train it"),
    ],
)
def test_a_recipe_that_does_not_fit(make, tmp_path, capsys, change, said):
    code, root = make("seqlora", checkpoints(tmp_path / "theirs"), **change)
    assert code != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not root.exists()


def test_a_projector_that_is_missing(make, tmp_path, capsys):
    code, _ = make("seqlora", checkpoints(tmp_path / "theirs", projector=False))
    assert code != 0
    assert "non_lora_trainables.bin" in capsys.readouterr().err


def test_methods_that_keep_more_than_weights_are_refused(make, tmp_path, capsys):
    code, root = make("ewc", checkpoints(tmp_path / "theirs"))
    assert code != 0
    assert "keeps what it has measured" in " ".join(capsys.readouterr().err.split())
    assert not root.exists()


def test_unknown_tasks_are_named(make, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs")
    code, _ = make("seqlora", {"one": theirs["one"], "won": theirs["two"]})
    assert code != 0
    assert "won" in capsys.readouterr().err


def test_matrix_report_and_compare(make, tmp_path, capsys, llava, data, run):
    """The published weights stand beside a run of our own."""
    import tiny

    code, root = make("inclora", checkpoints(tmp_path / "theirs"))
    assert code == 0
    assert main(["evaluate", str(root), "--matrix", "--out", str(tmp_path / "tested")]) == 0
    told = capsys.readouterr().out
    assert "zero-shot" in told
    matrix = json.loads((tmp_path / "tested" / "matrix.json").read_text())
    assert matrix["tasks"] == ["one", "two"]
    assert None not in matrix["zero_shot"]
    assert None not in matrix["scores"][1]
    assert matrix["scores"][0][0] is not None
    assert main(["report", str(tmp_path / "tested")]) == 0
    page = (tmp_path / "tested" / "report.md").read_text()
    assert "The weights were not trained here but imported" in page
    own = tiny.recipe(llava, data, tmp_path / "own", "inclora", ("one", "two"), lora_alpha=8, max_steps=1)
    run(own)
    words = ["compare", str(tmp_path / "tested"), str(tmp_path / "own"), "--out", str(tmp_path / "both")]
    assert main(words) == 0
    page = (tmp_path / "both" / "compare.md").read_text()
    assert "| inclora (imported=" in page, "no repetition of our own training"
    assert "| inclora |" in page
    assert "Trained elsewhere" in page
    assert "Training is not equal" not in page, "the recipe of an import says nothing of the training"
    assert main(["export", str(root), "--to", "adapter", "--out", str(tmp_path / "adapter")]) == 0


def test_all_rows_of_a_run_again_are_its_own_rows(cli_run, tmp_path):
    root = cli_run
    assert main(["evaluate", str(root), "--matrix", "--out", str(tmp_path / "again")]) == 0
    ours, again = (json.loads((folder / "matrix.json").read_text()) for folder in (root, tmp_path / "again"))
    assert ours["scores"] == again["scores"]
    assert ours["zero_shot"] == again["zero_shot"]
    for path in (root / "predictions").rglob("*.jsonl"):
        assert (tmp_path / "again" / path.relative_to(root)).read_bytes() == path.read_bytes()


@pytest.fixture
def cli_run(tmp_path, llava, data, run):
    import tiny

    run(tiny.recipe(llava, data, tmp_path / "own", "inclora", ("one", "two"), max_steps=1))
    return tmp_path / "own"


def test_one_row_alone(cli_run, tmp_path):
    assert main(["evaluate", str(cli_run), "--matrix", "--after", "two", "--out", str(tmp_path / "out")]) == 0
    ours, again = (json.loads((folder / "matrix.json").read_text()) for folder in (cli_run, tmp_path / "out"))
    assert again["scores"][1] == ours["scores"][1]
    assert again["scores"][0] == [None, None]
    assert again["zero_shot"] == [None, None]


def test_all_rows_are_of_the_runs_own_tasks(cli_run, tmp_path, capsys):
    words = ["--test-set", "one_test", "--scorer", "exact_match"]
    assert main(["evaluate", str(cli_run), "--matrix", *words, "--out", str(tmp_path / "out")]) != 0
    assert "--matrix" in capsys.readouterr().err
    assert main(["evaluate", str(cli_run), "--matrix", "--after", "won", "--out", str(tmp_path / "out")]) != 0
    assert "no trained task 'won'" in capsys.readouterr().err

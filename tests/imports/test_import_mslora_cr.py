"""`cl-plugins import run`: ``cl_lora.bin`` of MSLoRA-CR."""

from __future__ import annotations

import authors
import pytest
import torch

from cl_plugins.cli import main


RANK, ALPHA = 4, 4
KEYS = {"lora_alpha": ALPHA, "additional_target": None}


def checkpoints(folder, tasks=("one", "two"), **more):
    return {
        t: authors.save_pool(folder / t, authors.factors(RANK, 10 + i), i, RANK, ALPHA, **more)
        for i, t in enumerate(tasks)
    }


def truth(llava, made):
    model = authors.load(llava)
    with authors.with_terms(model, authors.lora_terms(made, ALPHA / RANK)), torch.no_grad():
        return model(**authors.inputs(llava)).logits


def ours(root, task, llava, scratch, after=None):
    with authors.answering(root, task, scratch, after) as model, torch.no_grad():
        return model(**authors.inputs(llava)).logits


def test_task_k_is_answered_by_the_first_k(make, llava, tmp_path):
    code, root = make("mslora_cr", checkpoints(tmp_path / "theirs"), **KEYS)
    assert code == 0
    both = [authors.factors(RANK, 10), authors.factors(RANK, 11)]
    assert authors.close(ours(root, "one", llava, tmp_path), truth(llava, both[:1]))
    assert authors.close(ours(root, "two", llava, tmp_path), truth(llava, both))


def test_trained_weights_of_the_loss_take_no_part(make, llava, tmp_path):
    more = {"alpha": torch.tensor(-4.6), "beta": torch.tensor(-4.5)}
    code, root = make("mslora_cr", checkpoints(tmp_path / "theirs", more=more), **KEYS)
    assert code == 0
    assert authors.close(ours(root, "one", llava, tmp_path), truth(llava, [authors.factors(RANK, 10)]))


def test_a_lora_for_each_task_alone(make, llava, tmp_path):
    """``finetune_lora_each.sh``: every file is that of a first task."""
    theirs = {
        task: authors.save_pool(tmp_path / "each" / task, authors.factors(RANK, 20 + i), 0, RANK, ALPHA)
        for i, task in enumerate(("one", "two"))
    }
    code, root = make("single_task", theirs, **KEYS)
    assert code == 0
    assert authors.close(ours(root, "one", llava, tmp_path, "one"), truth(llava, [authors.factors(RANK, 20)]))
    assert authors.close(ours(root, "two", llava, tmp_path), truth(llava, [authors.factors(RANK, 21)]))
    assert main(["evaluate", str(root), "--matrix", "--out", str(tmp_path / "tested")]) == 0


def test_the_scaling_is_compared_with_what_the_files_say(make, tmp_path, capsys):
    code, _ = make("mslora_cr", checkpoints(tmp_path / "theirs"), **{**KEYS, "lora_alpha": 8})
    assert code != 0
    assert "has 1" in capsys.readouterr().err


def test_without_a_configuration_the_recipe_says_the_scaling(make, llava, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs", said=False)
    code, _ = make("mslora_cr", theirs, additional_target=None, **{"lora_alpha": None})
    assert code != 0
    assert "lora_alpha" in capsys.readouterr().err
    code, root = make("mslora_cr", theirs, **KEYS)
    assert code == 0
    assert authors.close(ours(root, "one", llava, tmp_path), truth(llava, [authors.factors(RANK, 10)]))


def test_files_in_another_order_are_refused(make, tmp_path, capsys):
    theirs = checkpoints(tmp_path / "theirs")
    code, root = make("mslora_cr", {"one": theirs["two"], "two": theirs["one"]}, **KEYS)
    told = " ".join(capsys.readouterr().err.split())
    assert code != 0
    assert "holds the LoRA of task number 2, and is given for number 1" in told
    assert "holds the LoRA of task number 1, and is given for number 2" in told
    assert not root.exists()


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model.layers.0.mlp.up_proj.cl_lora_pool.task_0_lora.lora_A": Evil()}, "holds more than tensors"),
        ([torch.zeros(2)], "holds a list"),
        ({"model.layers.0.mlp.up_proj.cl_lora_pool.task_0_lora.lora_A": "text"}, "is a str"),
        ({"model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)}, "is not known"),
        (
            {"model.layers.0.mlp.up_proj.cl_lora_pool.task_0_lora.lora_A": torch.zeros(1, 1).expand(900, 900)},
            "repeats",
        ),
    ],
)
def test_anything_else_in_the_file_is_refused(make, tmp_path, capsys, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "theirs" / "cl_lora.bin"
    file.parent.mkdir()
    torch.save(content, file)
    code, root = make("mslora_cr", {"one": file}, **KEYS)
    assert code != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not root.exists()
    assert not (tmp_path / "harmed").exists()

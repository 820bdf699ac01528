"""`evaluate` and `export`: what a run has learned, from its carry."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import sealed
import torch
from safetensors.torch import load_file


def logits(model, llava):
    """fp32 logits of a model on fixed tokens and a fixed picture."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(llava)
    ids = torch.tensor([[1, *[config.image_token_index] * 4, 20, 31, 42, 53, 64]])
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    with torch.no_grad():
        model = model.eval()
        return model(input_ids=ids, pixel_values=pixels.to(next(model.parameters()).dtype)).logits.float()


def load(folder, **more):
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, **more)


def close(a, b, bound):
    return float((a - b).abs().max()) <= bound * float(b.abs().max())


def tree(root):
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


# --- evaluate


def test_evaluate_gives_the_runs_own_scores(cli, inclora, tmp_path):
    before = tree(inclora.root)
    code, out, err = cli("evaluate", inclora.root, "--out", tmp_path / "again")
    assert code == 0, err
    assert tree(inclora.root) == before, "the run itself is only read"
    for task in ("one", "two", "three"):
        for name in (f"{task}.jsonl", f"{task}.score.json"):
            own = inclora.root / "predictions" / "after_three" / name
            assert (tmp_path / "again" / "predictions" / "after_three" / name).read_bytes() == own.read_bytes()
    assert "after one → two → three" in out
    assert "choice_accuracy@2" in out


def test_evaluate_goes_on_where_it_was_killed(cli, inclora, tmp_path, monkeypatch):
    from cl_plugins.run import parts

    class Killed(BaseException):
        pass

    add, added = parts.Writer.add, []

    def adding(self, number, texts):
        add(self, number, texts)
        added.append(number)
        if len(added) == 3:  # the first batch of the second task; every task has two
            raise Killed

    monkeypatch.setattr(parts.Writer, "add", adding)
    words = ("evaluate", inclora.root, "--out", tmp_path / "out")
    with pytest.raises(Killed):
        cli(*words)
    code, _, err = cli(*words)
    assert code == 0, err
    assert added == [0, 1, 0, 1, 0, 1]
    for task in ("one", "two", "three"):
        name = f"predictions/after_three/{task}.jsonl"
        assert (tmp_path / "out" / name).read_bytes() == (inclora.root / name).read_bytes()
    assert not list((tmp_path / "out").rglob("*.parts"))


def test_evaluate_after_an_earlier_task(cli, inclora, seqlora, tmp_path):
    for made in (inclora, seqlora):
        out_dir = tmp_path / made.root.name
        code, out, err = cli("evaluate", made.root, "--after", "two", "--task", "one", "--out", out_dir, "--json")
        assert code == 0, err
        own = (made.root / "predictions" / "after_two" / "one.jsonl").read_bytes()
        assert (out_dir / "predictions" / "after_two" / "one.jsonl").read_bytes() == own
        value = json.loads(out)
        assert value["learned"] == ["one", "two"]
        assert value["scores"]["one"]["score"] == value["in_the_run"]["one"]


def test_evaluate_a_new_test_set(cli, inclora, tmp_path):
    import tiny

    tiny.build_data(tmp_path / "elsewhere", tasks=("site",), train=1, test=5)
    words = ("--test-set", "site_test", "--scorer", "exact_match", "--dataset-dir", tmp_path / "elsewhere")
    code, out, err = cli("evaluate", inclora.root, *words, "--max-items", 4, "--out", tmp_path / "new", "--json")
    assert code == 0, err
    score = json.loads(out)["scores"]["site_test"]
    assert (score["scorer"], score["n"], score["max_items"]) == ("exact_match@2", 4, 4)
    lines = (tmp_path / "new" / "predictions" / "after_three" / "site_test.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"site-test-{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "tow"], "Did you mean 'two'?"),
        (["--test-set", "one_test"], "needs a scorer"),
        (["--test-set", "one_test", "--scorer", "exct_match"], "Did you mean 'exact_match'?"),
        (["--test-set", "no_such", "--scorer", "exact_match"], "no data set called 'no_such'"),
        (["--after", "four"], "no trained task 'four'"),
        (["--max-items", "0"], "The smallest allowed value is 1."),
        (["--task", "one", "--test-set", "one_test", "--scorer", "bleu"], "Keep one of the two."),
    ],
)
def test_evaluate_refuses_what_is_not_there(cli, inclora, tmp_path, words, message):
    code, _, err = cli("evaluate", inclora.root, "--out", tmp_path / "x", *words)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "x").exists()


def test_evaluate_never_writes_into_a_run(cli, inclora, seqlora):
    code, _, err = cli("evaluate", inclora.root, "--out", seqlora.root)
    assert code == 1
    assert "is the directory of a run" in err


def test_a_damaged_carry_is_not_used(cli, copied, tmp_path):
    file = sorted((copied / "carry" / "updates").iterdir())[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()  # it is a hard link
    file.write_bytes(content)
    code, _, err = cli("evaluate", copied, "--out", tmp_path / "x")
    assert code == 1
    assert "differs from its hash" in err


def test_another_base_is_refused_and_a_moved_one_found(cli, copied, llava, tmp_path):
    import tiny

    other = tiny.build_llava(tmp_path / "other", seed=5)
    code, _, err = cli("evaluate", copied, "--out", tmp_path / "x", "--model", other)
    assert code == 1
    assert "belongs to another base" in err
    moved = shutil.copytree(llava, tmp_path / "moved")
    sealed.edit(copied / "run.json", lambda record: record["recipe"].update(model_name_or_path=str(tmp_path / "gone")))
    code, _, err = cli("evaluate", copied, "--task", "one", "--out", tmp_path / "x")
    assert code == 1
    assert "--model PATH" in err
    code, _, err = cli("evaluate", copied, "--task", "one", "--out", tmp_path / "x", "--model", moved)
    assert code == 0, err


def test_a_run_at_work_is_left_alone(cli, copied, tmp_path):
    from cl_plugins.base.lock import RunLock

    with RunLock(copied):
        code, _, err = cli("export", copied, "--to", "adapter", "--out", tmp_path / "x")
    assert code == 1
    assert "is being carried out by process" in err


# --- export


def test_merged_fp32_equals_final(cli, inclora, llava, tmp_path):
    out = tmp_path / "merged"
    code, text, err = cli("export", inclora.root, "--to", "merged", "--dtype", "fp32", "--out", out)
    assert code == 0, err
    assert torch.equal(logits(load(out), llava), logits(load(inclora.root / "final"), llava))
    assert "merge error" in text
    manifest = json.loads((out / "MANIFEST.json").read_text())
    assert manifest["kind"] == "merged"
    assert manifest["merge_error"]["relative"] < 1e-5


def test_adapter_in_plain_peft_equals_final(cli, inclora, llava, tmp_path):
    from peft import PeftModel

    out = tmp_path / "adapter"
    code, text, err = cli("export", inclora.root, "--to", "adapter", "--out", out)
    assert code == 0, err
    assert "12" in text, "three updates of rank 4"
    model = PeftModel.from_pretrained(load(llava), out)
    final = logits(load(inclora.root / "final"), llava)
    assert close(logits(model, llava), final, 1e-4)
    assert not close(logits(load(llava), llava), final, 1e-2), "or else the test could not fail"


def test_the_chain_up_to_a_task(cli, inclora, llava, tmp_path):
    """The adapter after task two and the merged model after task two are the same model."""
    from peft import PeftModel

    for form in ("adapter", "merged"):
        more = ["--dtype", "fp32"] if form == "merged" else []
        code, text, err = cli("export", inclora.root, "--to", form, "--task", "two", "--out", tmp_path / form, *more)
        assert code == 0, err
        assert "after one → two\n" in text
    merged = logits(load(tmp_path / "merged"), llava)
    assert close(logits(PeftModel.from_pretrained(load(llava), tmp_path / "adapter"), llava), merged, 1e-4)
    assert not close(merged, logits(load(inclora.root / "final"), llava), 1e-3)


def test_seqlora_after_its_first_task_is_its_first_update(cli, seqlora, tmp_path):
    out = tmp_path / "first"
    code, _, err = cli("export", seqlora.root, "--to", "adapter", "--task", "one", "--out", out)
    assert code == 0, err
    update = load_file(seqlora.root / "tasks" / "01_one" / "update.safetensors")
    exported = load_file(out / "adapter_model.safetensors")
    a = next(name for name in update if name.endswith("lora_A.weight"))
    assert torch.equal(exported[a], update[a])
    assert set(exported) == set(update)


def test_bf16_is_rounded_once_and_says_what_that_costs(cli, inclora, llava, tmp_path):
    out = tmp_path / "bf16"
    code, text, err = cli("export", inclora.root, "--to", "merged", "--out", out)
    assert code == 0, err
    shown = re.search(r"merge error\s+(\S+) of the update; the best possible rounding\s+loses (\S+)", text)
    assert shown, text
    assert float(shown[1]) <= 1.1 * float(shown[2])
    exported, exact = load_file(out / "model.safetensors"), load_file(inclora.root / "final" / "model.safetensors")
    base = load_file(llava / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    error = best = change = 0.0
    for name, whole in exact.items():
        if name.endswith("proj.weight") and "language_model" in name:
            whole = whole.double()
            error += float((exported[name].double() - whole).square().sum())
            best += float((whole.to(torch.bfloat16).double() - whole).square().sum())
            change += float((whole - base[name].double()).square().sum())
    assert error <= 1.21 * best
    assert float(shown[1]) == pytest.approx((error / change) ** 0.5, rel=0.05)
    assert load(out, dtype="auto").dtype == torch.bfloat16


def test_a_full_model_at_another_dtype(cli, tmp_path, llava, data):
    import tiny
    from llamafactory.train.tuner import run_exp

    root = tmp_path / "full"
    run_exp(tiny.recipe(llava, data, root, "seqfull", tasks=("one",), cl={"eval": {"scope": "none"}}))
    code, _, err = cli("export", root, "--to", "adapter", "--out", tmp_path / "x")
    assert code == 1
    assert "Use `--to merged`." in err
    code, _, err = cli("export", root, "--to", "merged", "--out", tmp_path / "half")
    assert code == 0, err
    exact, exported = (
        load_file(root / "final" / "model.safetensors"),
        load_file(tmp_path / "half" / "model.safetensors"),
    )
    assert all(torch.equal(exported[name], whole.to(torch.bfloat16)) for name, whole in exact.items())
    assert json.loads((tmp_path / "half" / "MANIFEST.json").read_text())["kind"] == "full"


def test_the_carry_stands_in_for_updates_that_were_not_kept(cli, copied, inclora, seqlora, tmp_path):
    for file in copied.glob("tasks/*/update.*"):
        file.unlink()
    code, _, err = cli("export", copied, "--to", "adapter", "--task", "two", "--out", tmp_path / "a")
    assert code == 0, err
    code, _, err = cli("export", inclora.root, "--to", "adapter", "--task", "two", "--out", tmp_path / "b")
    assert code == 0, err
    name = "adapter_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = shutil.copytree(seqlora.root, tmp_path / "other")
    for file in other.glob("tasks/*/update.*"):
        file.unlink()
    code, _, err = cli("export", other, "--to", "adapter", "--task", "two", "--out", tmp_path / "c")
    assert code == 1
    assert "was not kept" in err


def test_one_adapter_per_task_of_a_chain_is_its_own_update(cli, inclora, llava, tmp_path):
    from peft import PeftModel

    out = tmp_path / "adapters"
    code, text, err = cli("export", inclora.root, "--to", "tasks", "--out", out)
    assert code == 0, err
    assert "the task's own update" in text
    manifest = json.loads((out / "MANIFEST.json").read_text())
    assert manifest["kind"] == "tasks"
    assert "a part of the model" in manifest["meaning"]
    assert [(a["folder"], a["updates"], a["rank"], a["answers"]) for a in manifest["adapters"]] == [
        (f"0{n}_{task}", [task], 4, False) for n, task in enumerate(("one", "two", "three"), start=1)
    ]
    # together they are the model: PEFT with all of them active, and the projector of the last
    model = PeftModel.from_pretrained(load(llava), out / "03_three", adapter_name="03_three")
    for name in ("01_one", "02_two"):
        model.load_adapter(out / name, adapter_name=name)
    for module in model.modules():
        if type(module).__name__ == "ModulesToSaveWrapper":
            module.set_adapter("03_three")
        elif hasattr(module, "lora_A") and hasattr(module, "set_adapter"):
            module.set_adapter(["01_one", "02_two", "03_three"])
    final = logits(load(inclora.root / "final"), llava)
    assert close(logits(model, llava), final, 1e-4)
    alone = PeftModel.from_pretrained(load(llava), out / "03_three")
    assert not close(logits(alone, llava), final, 1e-3)


def test_one_adapter_per_task_of_a_routed_method_answers_its_task(cli, llava, data, tmp_path):
    import tiny
    from llamafactory.train.tuner import run_exp
    from peft import PeftModel

    root, out = tmp_path / "run", tmp_path / "adapters"
    run_exp(tiny.recipe(llava, data, root, "mslora_cr"))
    code, text, err = cli("export", root, "--to", "tasks", "--out", out)
    assert code == 0, err
    assert "one + two, rank 8" in text
    manifest = json.loads((out / "MANIFEST.json").read_text())
    assert [(a["updates"], a["rank"], a["answers"]) for a in manifest["adapters"]] == [
        (["one", "two", "three"][:n], 4 * n, True) for n in (1, 2, 3)
    ]
    seen = []
    for adapter in manifest["adapters"]:
        got = logits(PeftModel.from_pretrained(load(llava), out / adapter["folder"]), llava)
        merged = tmp_path / f"after_{adapter['task']}"
        code, _, err = cli(
            "export", root, "--to", "merged", "--dtype", "fp32", "--task", adapter["task"], "--out", merged
        )
        assert code == 0, err
        assert close(got, logits(load(merged), llava), 1e-4)
        seen.append(got)
    assert not close(seen[0], seen[1], 1e-3)
    assert close(seen[2], logits(load(root / "final"), llava), 1e-4)
    code, text, err = cli("export", root, "--to", "tasks", "--task", "two", "--out", tmp_path / "two")
    assert code == 0, err
    found = {p.name for p in (tmp_path / "two").iterdir()}
    assert {"MANIFEST.json", "README.md", "tokenizer.json"} < found
    assert {name for name in found if name[0].isdigit()} == {"01_one", "02_two"}


def test_one_adapter_per_task_needs_one_update_per_task(cli, seqlora, tmp_path):
    code, _, err = cli("export", seqlora.root, "--to", "tasks", "--out", tmp_path / "x")
    assert code == 1
    assert "does not keep one low-rank update per task" in " ".join(err.split())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("there", ["file", "folder", "run"])
def test_export_replaces_nothing(cli, inclora, tmp_path, there):
    out = tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    elif there == "folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out = inclora.root
    before = tree(out)
    code, _, err = cli("export", inclora.root, "--to", "adapter", "--out", out)
    assert code == 1
    assert "Choose" in err
    assert tree(out) == before


def test_an_adapter_has_no_dtype_to_choose(cli, inclora, tmp_path):
    code, _, err = cli("export", inclora.root, "--to", "adapter", "--dtype", "bf16", "--out", tmp_path / "x")
    assert code == 2
    assert "goes with `--to merged` only" in err


def test_a_half_precision_run_is_merged_from_the_truth(cli, tmp_path, data):
    """Its ``final/`` is an adapter; the merged model is base + updates, rounded once, however many tasks there were."""
    import tiny
    from llamafactory.train.tuner import run_exp

    from cl_plugins.contract.low_rank import LowRankUpdate

    base, root = tiny.build_llava(tmp_path / "base", dtype="bfloat16"), tmp_path / "half"
    run_exp(tiny.recipe(base, data, root, tasks=("one", "two"), bf16=True, cl={"eval": {"scope": "none"}}))
    assert (root / "final" / "adapter_config.json").is_file()
    code, text, err = cli("export", root, "--to", "merged", "--out", tmp_path / "bf16")
    assert code == 0, err
    error = json.loads((tmp_path / "bf16" / "MANIFEST.json").read_text())["merge_error"]
    assert error["relative"] <= 1.1 * error["best_rounding"]
    assert f"{error['relative']:.2e}" in text
    updates = []
    for task in ("01_one", "02_two"):
        meta = json.loads((root / "tasks" / task / "update.json").read_text())["meta"]
        updates.append(LowRankUpdate.from_state(load_file(root / "tasks" / task / "update.safetensors"), meta))
    merged, before = load(tmp_path / "bf16", dtype="auto").state_dict(), load(base, dtype="auto").state_dict()
    for module in updates[0].a:
        exact = before[f"{module}.weight"].double()
        exact += sum(u.scaling * u.b[module].double() @ u.a[module].double() for u in updates)
        ours = (merged[f"{module}.weight"].double() - exact).norm()
        assert ours <= 1.1 * (exact.to(torch.bfloat16).double() - exact).norm()
    for name, value in updates[1].replaced.items():
        assert torch.equal(merged[name], value.to(torch.bfloat16))


# --- folders of evaluations


def test_an_evaluation_does_not_mix_with_another_one(cli, inclora, seqlora, tmp_path):
    out = tmp_path / "out"
    words = ("--task", "one", "--max-items", 2, "--out", out)
    assert cli("evaluate", inclora.root, *words)[0] == 0
    assert cli("evaluate", inclora.root, *words, "--after", "two")[0] == 0
    assert cli("evaluate", inclora.root, "--task", "two", "--out", out)[0] == 0
    assert cli("evaluate", inclora.root, *words)[0] == 0
    before = tree(out)
    for root, more, told in (
        (seqlora.root, words, "another run"),
        (inclora.root, ("--task", "one", "--out", out), "after_three/one: max_items was 2 and is None"),
        (inclora.root, (*words, "--scorer", "exact_match"), "scorer was 'choice_accuracy' and is 'exact_match'"),
        (
            inclora.root,
            ("--matrix", "--out", out),
            "single models (one, two), and this is a matrix (all rows) of one, three, two",
        ),
    ):
        code, _, err = cli("evaluate", root, *more)
        assert code == 1
        assert told in " ".join(err.split())
        assert "Choose another `--out`" in err
        assert tree(out) == before


def test_a_matrix_has_a_folder_of_its_own(cli, inclora, seqlora, tmp_path):
    out = tmp_path / "out"
    assert cli("evaluate", inclora.root, "--matrix", "--max-items", 2, "--out", out)[0] == 0
    before = tree(out)
    for root, more, told in (
        (seqlora.root, ("--matrix", "--max-items", 2), "another run"),
        (inclora.root, ("--matrix", "--max-items", 2, "--after", "two"), "a matrix (all rows)"),
        (inclora.root, ("--matrix",), "other settings"),
        (inclora.root, ("--max-items", 2, "--task", "one"), "this is tests of single models (one)"),
    ):
        code, _, err = cli("evaluate", root, *more, "--out", out)
        assert code == 1
        assert told in " ".join(err.split())
        assert tree(out) == before
    assert cli("evaluate", inclora.root, "--matrix", "--max-items", 2, "--out", out)[0] == 0
    assert cli("report", out)[0] == 0


@pytest.mark.parametrize("name", ["predictions", "run.json", "evaluation.json"])
def test_a_folder_of_something_else_is_left_alone(cli, inclora, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    before = tree(tmp_path / "out")
    code, _, err = cli("evaluate", inclora.root, "--task", "one", "--out", tmp_path / "out")
    assert code == 1
    assert "Choose another `--out`" in err
    assert tree(tmp_path / "out") == before


def test_scores_on_other_test_data_do_not_stand_beside_those_of_the_run(cli, inclora, tmp_path):
    import tiny

    tiny.build_data(tmp_path / "elsewhere")
    records = json.loads((tmp_path / "elsewhere" / "one_test.json").read_text())
    (tmp_path / "elsewhere" / "one_test.json").write_text(json.dumps(records[::-1]))
    words = ("--dataset-dir", tmp_path / "elsewhere")
    code, out, err = cli("evaluate", inclora.root, *words, "--out", tmp_path / "a", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert value["other_data"] == ["one"]
    assert value["in_the_run"]["one"] is None
    assert value["in_the_run"]["two"] == value["scores"]["two"]["score"]
    code, out, _ = cli("evaluate", inclora.root, *words, "--task", "one", "--out", tmp_path / "b")
    assert (code, "The test data of one differ from those of the run." in out) == (0, True)
    assert cli("evaluate", inclora.root, *words, "--matrix", "--out", tmp_path / "m")[0] == 0
    assert "The test data of one differ from those of the run." in (tmp_path / "m" / "report.md").read_text()

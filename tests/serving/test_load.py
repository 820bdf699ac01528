"""`cl_plugins.load` gives the model that answered last, for every kind of ``final/``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import tiny
import torch
from apart import TASKS
from served_models import ROUTED, RUNS, answers, kinds, manifest

import cl_plugins
from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.records.carry import ModelManifest


@pytest.mark.parametrize("name", kinds(RUNS))
def test_it_answers_as_the_last_row(finished, name):
    run = finished(name)
    model = cl_plugins.load(run.final)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    wanted = [item.answer.strip() for item in run.items]
    for batch in (1, 7):
        assert answers(model, run.final, run.items, batch) == wanted


def test_the_directory_of_the_run_does_as_well(finished):
    run = finished("routed by token")
    assert answers(cl_plugins.load(str(run.out)), run.base, run.items[:2], 2) == [
        item.answer.strip() for item in run.items[:2]
    ]


@pytest.mark.parametrize("name", kinds(RUNS))
def test_the_manifest_says_what_is_needed(finished, name):
    run = finished(name)
    found = manifest(run.final)
    assert found["kind"] == name.split(" ")[0].rstrip(",")
    assert (found["package"], found["version"]) == ("cl-plugins", cl_plugins.__version__)
    assert found["keys"] == {"template": "llava"}
    assert found["autocast"] == ("bfloat16" if run.half else None)
    assert found["dtype"] == ("bfloat16" if run.half else "float32")
    there = {p.relative_to(run.final).as_posix() for p in run.final.rglob("*") if p.is_file()} - {"MANIFEST.json"}
    assert found["files"].keys() == there
    if name in ROUTED:
        assert found["options"] == {k: v for k, v in RUNS[name]["method"].items() if k != "name"}
        assert found["lora"]["r"] == 4, name
        assert found["lora"]["modules_to_save"] == ["multi_modal_projector"]
        assert any(target.endswith("layers.0.self_attn.q_proj") for target in found["lora"]["target_modules"])


def test_samples_of_a_replay_buffer_do_not_come_along(llava, data, tmp_path, run):
    out = tmp_path / "run"
    method = {"name": "moelora", "experts": 2}
    keys = tiny.recipe(
        llava, data, out, method, TASKS[:2], max_steps=1, cl={"replay": {"capacity_per_task": 3}, "eval": {"scope": "none"}}
    )  # fmt: skip
    run(keys)
    assert (out / "carry" / "replay").is_dir()
    assert not [name for name in manifest(out / "final")["files"] if "replay" in name or "image" in name]
    cl_plugins.load(out)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.fixture
def copy(finished, tmp_path):
    def make(name):
        return shutil.copytree(finished(name).final, tmp_path / "copy")

    return make


@pytest.mark.parametrize("name", ["merged", "peft", "routed by row"])
def test_a_changed_byte_is_found(copy, name):
    folder = copy(name)
    file = max(folder.rglob("*.safetensors"), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RunStateError, match=r"differs from its hash in MANIFEST\.json"):
        cl_plugins.load(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "modeling_x.py", "carry/extra.safetensors"])
def test_a_file_that_a_loader_might_read_is_found(copy, name):
    folder = copy("routed by token")
    (folder / name).write_text("{}")
    (folder / "README.md").write_text("a model card may be added")
    with pytest.raises(RunStateError) as caught:
        cl_plugins.load(folder)
    assert [problem.where for problem in caught.value.problems] == [str(folder / name)]


def test_code_in_the_folder_never_runs(copy, tmp_path):
    """Not even where the manifest lists it and the config asks for it."""
    folder = copy("merged")
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import LlavaConfig as C, LlavaForConditionalGeneration as M\n"
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {
        "AutoConfig": "evil.C",
        "AutoModelForImageTextToText": "evil.M",
        "AutoModelForCausalLM": "evil.M",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _sign(folder)
    with pytest.raises(RunStateError, match="trust_remote_code=True"):
        cl_plugins.load(folder)
    assert not mark.exists()


def _sign(folder, **changes):
    """Write the manifest again, as someone who can write the folder can."""
    from cl_plugins.run.finish import write_manifest

    about = {k: v for k, v in manifest(folder).items() if k not in ("files", "checksum", "format")}
    (folder / "MANIFEST.json").unlink()
    write_manifest(folder, {**about, **changes})


def test_another_base_is_refused(copy, finished, tmp_path):
    folder = copy("routed by token")
    other = tiny.build_llava(tmp_path / "other", seed=1)
    with pytest.raises(RunStateError, match="belongs to another base"):
        cl_plugins.load(folder, base=other)
    same = shutil.copytree(finished("routed by token").base, tmp_path / "moved")
    run = finished("routed by token")
    assert answers(cl_plugins.load(folder, base=same), same, run.items[:3], 3) == [
        item.answer.strip() for item in run.items[:3]
    ]


def test_a_base_that_is_gone(copy):
    folder = copy("routed by token")
    _sign(folder, base={**manifest(folder)["base"], "name": "/nowhere/base"})
    with pytest.raises(RecipeError, match=r"base=PATH"):
        cl_plugins.load(folder)


def test_a_whole_model_has_no_base(finished):
    with pytest.raises(RecipeError, match="holds a whole model"):
        cl_plugins.load(finished("merged").final, base="x")


def test_a_method_that_is_not_installed(copy):
    folder = copy("routed by token")
    _sign(folder, method="lab_moe", package="lab-extras")
    with pytest.raises(RecipeError, match=r"'lab_moe' of the package 'lab-extras', which is not installed"):
        cl_plugins.load(folder)


def test_options_that_the_method_does_not_know(copy):
    folder = copy("routed by token")
    _sign(folder, options={"expertz": 2})
    with pytest.raises(RecipeError, match="expertz"):
        cl_plugins.load(folder)


def test_another_version_is_said(copy, caplog):
    folder = copy("routed by token")
    _sign(folder, version="0.0.1")
    cl_plugins.load(folder)
    assert "0.0.1" in caplog.text


def test_no_model_and_a_damaged_manifest(copy, tmp_path):
    with pytest.raises(RunStateError, match="holds no finished model"):
        cl_plugins.load(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunStateError, match="Let the run finish"):
        cl_plugins.load(tmp_path)
    folder = copy("routed by token")
    text = (folder / "MANIFEST.json").read_text()
    (folder / "MANIFEST.json").write_text(text.replace('"moelora"', '"olora"'))
    with pytest.raises(RunStateError, match="checksum"):
        cl_plugins.load(folder)
    about = manifest(folder) | {"method": "moelora", "files": None}
    ModelManifest.write(folder / "MANIFEST.json", {k: v for k, v in about.items() if k not in ("checksum", "format")})
    with pytest.raises(RunStateError, match="has no hashes"):
        cl_plugins.load(folder)


def test_llamafactory_is_not_needed(finished):
    """Nor imported."""
    code = (
        "import sys, cl_plugins; m = cl_plugins.load(sys.argv[1]); print(type(m).__name__);"
        "assert 'llamafactory' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished("routed by row").out)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "LlavaForConditionalGeneration", done.stderr[-2000:]


def test_gradients_are_off_and_the_row_state_is_there(finished):
    from cl_plugins.adapters.rows import state_of

    model = cl_plugins.load(finished("routed by row").final)
    assert state_of(model) is not None
    assert not torch.is_inference_mode_enabled()

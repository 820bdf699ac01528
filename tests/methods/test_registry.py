"""Methods through entry points: a third party's package registers one as ours do."""

from __future__ import annotations

import importlib
import sys

import pytest
import tiny
from running import go

from cl_plugins.base.errors import CompatibilityError, RecipeError
from cl_plugins.methods import registry


MODULE = '''
from dataclasses import dataclass
from cl_plugins.methods import Method, OneLoRA
from cl_plugins.base.schema import option


@dataclass(frozen=True)
class Options:
    strength: float = option(1.0, help="How hard.", minimum=0.0)


class Ours(OneLoRA):
    """A LoRA per task that writes down when it was asked."""

    name = "{name}"
    title = "Third party"
    config_class = Options
    asked = []

    def begin_task(self, context, model):
        Ours.asked.append((context.task.name, context.index, self.config.strength))
        return super().begin_task(context, model)


class Nameless(Method):
    pass


class NotAMethod:
    name = "{name}"
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a distribution by hand: a module and its metadata, found through ``sys.path``."""

    def install(distribution, name, value=None, source=MODULE):
        module = distribution.replace("-", "_")
        folder = tmp_path / distribution
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source.replace("{name}", name))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.METHODS.group}]\n{name} = {value or module + ':Ours'}\n")
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        registry.METHODS.refresh()
        return module

    registry.METHODS.refresh()
    yield install
    registry.METHODS.refresh()
    for name in [n for n in sys.modules if n.startswith("third_party")]:
        del sys.modules[name]


def entry(name):
    return next(e for e in registry.list_methods() if e.name == name)


def test_ours_are_registered_and_load():
    names = {"seqlora", "inclora", "seqfull", "single_task", "multitask"}
    assert names <= set(registry.method_names())
    for method in registry.list_methods():
        if method.name in names:
            assert method.error is None
            assert method.distribution == "cl-plugins"
            assert method.value.title
            assert method.value.capabilities.carries


def test_a_third_partys_method_runs_in_a_stream(package, llama, text_data, tmp_path):
    module = package("third-party-one", "third_one")
    assert "third_one" in registry.method_names()
    assert entry("third_one").distribution == "third-party-one"
    method = {"name": "third_one", "strength": 2}
    keys = tiny.recipe(llama, text_data, tmp_path / "run", method, ("one", "two"), text_only=True, max_steps=2)
    keys["cl"]["eval"] = {"scope": "none"}
    go(keys)
    assert sys.modules[module].Ours.asked == [("one", 1, 2.0), ("two", 2, 2.0)]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_options_of_a_third_partys_method_are_checked(package):
    from cl_plugins.recipe import parse_cl

    package("third-party-one", "third_one")
    for options, where in (({"strenth": 1}, "cl.method.strenth"), ({"strength": -1}, "cl.method.strength")):
        with pytest.raises(RecipeError) as caught:
            parse_cl({"stream": tiny.stream(), "method": {"name": "third_one", **options}})
        assert [p.where for p in caught.value.problems] == [where]


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("import a_package_that_is_not_there\n", None, "ModuleNotFoundError"),
        ("raise RuntimeError('no luck today')\n", None, "no luck today"),
        ("import sys\nsys.exit('not on this machine')\n", None, "sys.exit('not on this machine')"),
        ("import sys\nsys.exit()\n", None, "sys.exit(None)"),
        (MODULE, "third_party_bad:Missing", "AttributeError"),
        (MODULE, "third_party_bad:NotAMethod", "not a subclass"),
        (MODULE, "third_party_bad:Nameless", "calls itself None"),
        (MODULE.replace("{name}", "another"), None, "calls itself 'another'"),
    ],
)
def test_a_broken_method_is_shown_as_broken_and_takes_nobody_down(package, source, value, reason):
    package("third-party-bad", "third_bad", value, source)
    broken = entry("third_bad")
    assert broken.value is None
    assert reason in broken.error
    assert entry("inclora").value is not None
    assert registry.get_method("inclora").name == "inclora"
    with pytest.raises(RecipeError, match="third-party-bad") as caught:
        registry.get_method("third_bad")
    assert reason in str(caught.value)


def test_two_packages_with_one_name_are_a_hard_error_that_names_both(package):
    package("third-party-one", "third_one")
    package("third-party-two", "third_one")
    for ask in (registry.method_names, registry.list_methods, lambda: registry.get_method("inclora")):
        with pytest.raises(CompatibilityError, match="third-party-one") as caught:
            ask()
        assert "third-party-two" in str(caught.value)


def test_nobody_takes_over_one_of_our_names(package):
    package("third-party-one", "inclora")
    with pytest.raises(CompatibilityError, match="'inclora'"):
        registry.get_method("inclora")


def test_an_unknown_method_comes_with_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'seqlora'") as caught:
        registry.get_method("seqlroa", where="cl.method.name")
    assert "inclora" in str(caught.value)

"""The import machinery on small modules of our own; the host itself is in test_ways_in.py."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

import pytest

from cl_plugins.host import activation


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hooks for `toy_host.inner` and `toy_host.outer`; gives the names whose hook ran, in order."""
    package = tmp_path / "toy_host"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("def work():\n    return 'inner'\n")
    (package / "outer.py").write_text("import toy_trigger\nfrom toy_host.inner import work\nVALUE = 1\n")
    (tmp_path / "toy_trigger.py").write_text("from cl_plugins.host import activation\nactivation.activate()\n")
    ran: list[str] = []

    def record(module, name):
        assert module.__name__ == name
        assert hasattr(module, "work") or hasattr(module, "VALUE"), "the hook must see a finished module"
        ran.append(name)

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(activation, "HOOKS", {"toy_host.inner": "arguments", "toy_host.outer": "dispatch"})
    monkeypatch.setattr(activation, "_run_hook", record)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not hasattr(f, "cl_plugins_finder")])
    yield ran
    for name in [name for name in sys.modules if name.startswith(("toy_host", "toy_trigger"))]:
        del sys.modules[name]


def test_a_module_imported_later_is_hooked_once_and_stays_an_ordinary_module(hooked):
    activation.activate()
    module = importlib.import_module("toy_host.inner")
    assert hooked == ["toy_host.inner"]
    importlib.import_module("toy_host.inner")
    assert hooked == ["toy_host.inner"]
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__.loader is module.__loader__
    assert "exec_module" not in vars(module.__loader__)
    assert inspect.getsource(module.work) == "def work():\n    return 'inner'\n"
    assert module.__spec__.origin == module.__file__


def test_a_finished_module_is_hooked_in_place(hooked):
    importlib.import_module("toy_host.inner")
    assert hooked == []
    activation.activate()
    assert hooked == ["toy_host.inner"]


def test_a_module_that_is_being_executed_is_hooked_when_its_import_ends(hooked):
    module = importlib.import_module("toy_host.outer")  # its first line activates us
    assert hooked == ["toy_host.inner", "toy_host.outer"]
    assert type(module.__spec__) is ModuleSpec


def test_a_failed_import_runs_no_hook_and_leaves_nothing(hooked, tmp_path):
    (tmp_path / "toy_host" / "outer.py").write_text("import toy_trigger\nraise OSError('broken host')\n")
    with pytest.raises(OSError, match="broken host"):
        importlib.import_module("toy_host.outer")
    assert hooked == []
    assert "toy_host.outer" not in sys.modules


def test_reload_runs_the_hook_again(hooked):
    activation.activate()
    module = importlib.import_module("toy_host.inner")
    assert importlib.reload(module) is module
    assert hooked == ["toy_host.inner", "toy_host.inner"]
    assert type(module.__loader__) is SourceFileLoader


def test_activation_is_idempotent_also_from_threads_and_after_a_reload_of_itself(hooked):
    threads = [threading.Thread(target=activation.activate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(hasattr(finder, "cl_plugins_finder") for finder in sys.meta_path) == 1
    namespace = {"__name__": "cl_plugins.host.activation_copy", "__package__": "cl_plugins.host"}
    exec(compile(inspect.getsource(activation), "copy", "exec"), namespace)
    namespace["HOOKS"].clear()
    namespace["activate"]()
    assert sum(hasattr(finder, "cl_plugins_finder") for finder in sys.meta_path) == 1


def test_another_hook_that_delegates_like_ours_is_no_endless_recursion(hooked):
    class Other:
        def find_spec(self, name, path=None, target=None):
            specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
            return next((spec for spec in specs if spec is not None), None)

    activation.activate()
    sys.meta_path.insert(0, Other())
    importlib.import_module("toy_host.inner")
    assert hooked == ["toy_host.inner"]


def test_modules_of_a_zip_share_one_loader_and_are_each_hooked_once(hooked, tmp_path, monkeypatch):
    archive = tmp_path / "toy.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("toy_host/__init__.py", "")
        file.writestr("toy_host/inner.py", "work = 1\n")
        file.writestr("toy_host/outer.py", "from toy_host import inner\nVALUE = 2\n")
        file.writestr("toy_host/other.py", "OTHER = 3\n")
    monkeypatch.syspath_prepend(str(archive))
    activation.activate()
    importlib.import_module("toy_host.outer")
    assert importlib.import_module("toy_host.other").OTHER == 3
    assert hooked == ["toy_host.inner", "toy_host.outer"]


def test_a_hook_that_fails_warns_and_leaves_the_host_alone(tmp_path, monkeypatch):
    (tmp_path / "toy_alone.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(activation, "HOOKS", {"toy_alone": "no_such_room"})
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not hasattr(f, "cl_plugins_finder")])
    activation.activate()
    with pytest.warns(RuntimeWarning, match="could not patch toy_alone"):
        module = importlib.import_module("toy_alone")
    assert module.VALUE == 5
    del sys.modules["toy_alone"]


def test_installing_imports_neither_the_host_nor_anything_heavy():
    code = (
        "import sys, cl_plugins; cl_plugins.install(); cl_plugins.install()\n"
        "heavy = {'llamafactory', 'transformers', 'torch', 'omegaconf', 'yaml', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert sum(hasattr(f, 'cl_plugins_finder') for f in sys.meta_path) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("value", ["0", "false", "No", "off"])
def test_the_automatic_start_can_be_turned_off(monkeypatch, value):
    from cl_plugins import _autoload

    called = []
    monkeypatch.setattr(activation, "activate", lambda: called.append(1))
    monkeypatch.setenv("CL_PLUGINS_AUTOLOAD", value)
    _autoload.activate()
    assert called == []
    monkeypatch.setenv("CL_PLUGINS_AUTOLOAD", "1")
    _autoload.activate()
    assert called == [1]

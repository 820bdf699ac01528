"""Fixtures that every suite shares: tiny models and data, built once; no network."""

from __future__ import annotations

import gc
import logging
import os
import tempfile


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("CL_PLUGINS_CACHE", tempfile.mkdtemp(prefix="cl-plugins-cache-"))

import pytest
import tiny
from hypothesis import settings


#: Folders whose files share what is made once per process, such as runs and a server that forks, and its name.
TOGETHER = {"cli": "runs", "serving": "models", "recipes": "recipes", "kill": "forked", "distributed": "forked"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile` the files of such folders go to one worker."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            _, _, rest = file.partition("tests/")
            return TOGETHER.get(rest.partition("/")[0], file)

    return ByFileOrFolder(config, log) if config.getoption("dist") == "loadfile" else None


# A busy machine is not a failure. The examples of a change's tests are the same on every machine and in every run: what fails was
# changed. `make test-draws` looks for new ones.
settings.register_profile("same", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("draws", deadline=None, max_examples=50)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def _pictures_are_not_drawn():
    """See `drawing`; `pictures_drawn` is for tests of pictures."""
    from drawing import not_drawn

    with not_drawn():
        yield


@pytest.fixture
def heard(caplog):
    """What the package logs, which it keeps from the root logger."""
    logger = logging.getLogger("cl_plugins")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger="cl_plugins"):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def pictures_drawn():
    """For tests of pictures: they are drawn."""
    from drawing import drawn

    with drawn():
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_is_imported_stays():
    """The trainer collects garbage after every task; it need not look through the modules of all libraries."""
    gc.freeze()


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """Folder of a tiny LLaVA-shaped model (fp32)."""
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Folder of a tiny text-only LLaMA."""
    return tiny.build_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder of three tiny picture tasks."""
    return tiny.build_data(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def text_data(tmp_path_factory):
    """Folder of three tiny text tasks."""
    return tiny.build_data(tmp_path_factory.mktemp("data") / "texts", text_only=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Starts runs in processes of their own, which need not import anything."""
    from fork_server import ForkServer

    running = ForkServer(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture
def tracked(tmp_path, monkeypatch):
    """Stand-ins for experiment trackers; gives what they were told."""
    from tracked_runs import stand_ins

    with stand_ins(tmp_path / "tracked.jsonl", monkeypatch) as told:
        yield told


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser without a window; the tests are skipped where there is none."""
    from browser import browser

    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def run(tmp_path):
    """Carry out a recipe in this process, as `run_exp` from Python does."""

    def go(keys, callbacks=None):
        from llamafactory.train.tuner import run_exp

        run_exp(dict(keys), callbacks=callbacks)

    return go

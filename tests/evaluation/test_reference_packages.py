"""Packages that the original implementations use: another package's code is not taken for them."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys

import pytest

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference import packages


OURS = "class Rouge:\n    def __init__(self, metrics): ...\n    def get_scores(self, *_): return [{'rouge-l': {'f': 0.5}}]\n"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install packages into an empty folder that goes before all others; `rouge` is found nowhere else."""
    monkeypatch.syspath_prepend(tmp_path)
    held = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "rouge"}
    packages._wrong.cache_clear()

    def install(name, version, files, listed=True):
        rows = []
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(text.encode())
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}\n")
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if listed:
            (folder / "RECORD").write_text("".join(rows))
        importlib.invalidate_caches()
        return folder

    yield install
    packages._wrong.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "rouge"]:
        del sys.modules[name]
    sys.modules.update(held)


def scored():
    return get_scorer("peer:trace:meetingbank").score([Item("1", "p", "a b", "a c")]).score


def refused():
    with pytest.raises(CompatibilityError) as caught:
        scored()
    return str(caught.value)


def test_the_package_itself_is_used(site):
    site("rouge", "1.0.1", {"rouge/__init__.py": OURS, "rouge/rouge_score.py": "x = 1\n"})
    assert scored() == 50.0


def test_a_folder_of_the_same_name_of_another_package_is_not(site):
    site("rouge_chinese", "1.0.3", {"rouge/__init__.py": "__version__ = '1.0.1'\n" + OURS})
    message = refused()
    assert "needs the package rouge==1.0.1" in message
    assert "rouge/__init__.py is of another package" in message
    assert "pip install rouge==1.0.1" in message


@pytest.mark.parametrize("file", ["rouge/__init__.py", "rouge/rouge_score.py"])
def test_files_that_another_package_has_replaced_are_seen(site, file):
    site("rouge", "1.0.1", {"rouge/__init__.py": OURS, "rouge/rouge_score.py": "x = 1\n"})
    site("rouge_chinese", "1.0.3", {file: OURS + "y = 2\n"})
    message = refused()
    assert "is not the one that it has installed" in message
    assert "pip install --force-reinstall rouge==1.0.1" in message


def test_files_that_another_package_has_removed_are_seen(site, tmp_path):
    site("rouge", "1.0.1", {"rouge/__init__.py": OURS, "rouge/rouge_score.py": "x = 1\n"})
    (tmp_path / "rouge" / "rouge_score.py").unlink()
    assert "--force-reinstall" in refused()


def test_another_version_is_refused(site):
    site("rouge", "0.3.2", {"rouge/__init__.py": OURS})
    assert "version 0.3.2 is installed" in refused()


def test_a_package_without_a_list_of_files_and_one_installed_for_editing_are_trusted(site):
    folder = site("rouge", "1.0.1", {"rouge/__init__.py": OURS}, listed=False)
    assert scored() == 50.0
    (folder / "RECORD").write_text("elsewhere.pth,,\n")
    packages._wrong.cache_clear()
    assert "--force-reinstall" in refused()
    (folder / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    packages._wrong.cache_clear()
    assert scored() == 50.0

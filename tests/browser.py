"""A headless Chromium over its DevTools protocol, for tests of what a reader sees.

Chromium is a package of the system. axe-core comes from npm (``npm install --no-save axe-core``), or ``AXE_CORE`` names its
``axe.min.js``. Tests that lack one of them are skipped.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest


PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROOT = Path(__file__).parents[1]
SECONDS = 60.0
#: What each reader has: width in CSS pixels, and whether the system is dark.
READERS = {"desktop": (1280, False), "dark": (1280, True), "phone": (390, False), "phone in the dark": (390, True)}


def axe_core():
    """The text of axe-core."""
    places = [Path(os.environ.get("AXE_CORE", "/nonexistent")), ROOT / "node_modules" / "axe-core" / "axe.min.js"]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        pytest.skip("axe-core is not here: `npm install --no-save axe-core`, or name axe.min.js in AXE_CORE")
    return found.read_text(encoding="utf-8")


@contextlib.contextmanager
def browser(folder):
    """A running Chromium, or the test is skipped.

    Args:
        folder: Where it keeps its profile.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    client = pytest.importorskip("websockets.sync.client")
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(
            (m.group(1) for m in (re.search(r"listening on (ws://\S+)", x) for x in process.stderr) if m), None
        )
        if address is None:
            pytest.skip("Chromium does not start here")
        with client.connect(address, max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Browser:
    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)

    def call(self, method, session=None, **given):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": given}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self._socket.recv(timeout=SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def page(self, url, *, width=1280, height=900, dark=False, media=""):
        """A page in a window of its own.

        Args:
            url: Its address.
            width: Of the window.
            height: Of the window.
            dark: Whether the system is dark.
            media: ``print`` for the styles of paper.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", media=media, features=[feature])
        page.call("Page.navigate", url=url)
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    def __init__(self, browser, session):
        self._browser, self._session = browser, session

    def call(self, method, **given):
        return self._browser.call(method, self._session, **given)

    def value(self, expression):
        """What an expression is in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition, seconds=SECONDS):
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}\n{self.value('document.body.innerText')[:2000]}"
            time.sleep(0.1)

    @property
    def overflow(self):
        """By how many pixels the page is wider than its window."""
        return self.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    @property
    def loaded(self):
        """Addresses of everything that the page has loaded."""
        return self.value("performance.getEntriesByType('resource').map(entry => entry.name)")

    def faults(self, where="document"):
        """What axe-core finds: rule, and the elements that break it."""
        self.value(axe_core() + "; 0")
        script = f"axe.run({where}, {{iframes: false, resultTypes: ['violations']}}).then(r => r.violations.map("
        script += "v => [v.id, v.nodes.map(n => n.target.join(' ') + ' ' + n.html.slice(0, 160))]))"
        return [(rule, nodes) for rule, nodes in self.value(script)]

    def picture(self, path):
        """Keep what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def pdf(self):
        """The page on paper (A4), as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])

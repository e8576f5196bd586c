"""A real headless Chromium, driven over its DevTools pipe: no package and no download is needed for it."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOUND = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One tab. `seen` collects what it asks for, what fails, and what its console complains of."""

    def __init__(self, words: int, answers: int) -> None:
        self.words, self.answers = os.fdopen(words, "wb", 0), os.fdopen(answers, "rb")
        self.number, self.session, self.rest = 0, "", b""
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.wrong: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def read(self) -> dict[str, Any]:
        """The next message; an event is noted on the way."""
        while b"\0" not in self.rest:
            piece = os.read(self.answers.fileno(), 1 << 20)
            assert piece, "Chromium has ended"
            self.rest += piece
        line, self.rest = self.rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        what = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(what["request"]["url"])
            case "Network.loadingFailed" if not what.get("canceled"):
                self.wrong.append(f"failed: {what['errorText']}")
            case "Runtime.exceptionThrown":
                self.wrong.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
            case "Runtime.consoleAPICalled" if what["type"] in ("error", "warning"):
                self.wrong.append(str([arg.get("value") for arg in what["args"]]))
            case "Log.entryAdded" if what["entry"]["level"] in ("error", "warning"):
                self.wrong.append(what["entry"]["text"])
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.words.write(json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Go there and wait until everything is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def ask(self, script: str) -> Any:
        """The value of this JavaScript in the page; promises are waited for."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def size(self, width: int, height: int = 800) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in this folder; it can look up no name: nothing leaves the machine."""
    here, there = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{here[0]} 4>&{there[1]}', "chromium", str(FOUND), *options],
        pass_fds=(here[0], there[1]),
        stderr=subprocess.DEVNULL,
    )
    os.close(here[0])
    os.close(there[1])
    try:
        yield Browser(here[1], there[0])
    finally:
        process.terminate()
        process.wait(60)

"""The watchdog: kills a server whose /health fails or whose requests make no progress; supervisor restarts it.

An event listener of supervisor (TICK_5), run by supervisord.conf in the serving environment.
Dead: it was ready, then /health answers 503, or nothing for SILENT seconds. Hung: requests are open, no token has been
counted for HANG seconds, and a request of our own for one token gets no answer. A long prompt counts tokens at every
step, so it is not hung; nor is a server whose client does not read its answer. A start that reads nothing, logs nothing
and computes nothing for SILENT seconds is hung as well (for example after a SIGTERM during the warm-up).
"""

import atexit
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

HANG = float(os.environ.get("RUNBOOK_HANG_SECONDS", "180"))
SILENT = float(os.environ.get("RUNBOOK_SILENT_SECONDS", "60"))
STEADY = 60.0  # seconds of being ready after which the pauses are reset
TOKENS = re.compile(r"^vllm:(?:(?:prompt|generation)_tokens_total|iteration_tokens_total_sum)\{.*\} (\S+)$", re.M)
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", re.M)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy for loopback


def ask(path: str, body: dict[str, object] | None = None, timeout: float = 5) -> tuple[int, str, int]:
    """Return (status, text, open requests) of this server; status 0 if there is no answer. timeout in seconds."""
    headers = {"Authorization": f"Bearer {os.environ['API_KEY']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["RUNBOOK_URL"] + path, data, headers)
    try:
        with opener.open(request, timeout=timeout) as reply:
            return reply.status, reply.read().decode(errors="replace"), int(reply.headers.get("x-runbook-open", 0))
    except urllib.error.HTTPError as error:
        return error.code, "", 0
    except (OSError, ValueError):
        return 0, "", 0


def forget(name: str) -> None:
    """Reset a count of instance.sh."""
    Path(f"{os.environ['SERVER_ID']}.{name}").unlink(missing_ok=True)


class Probe(threading.Thread):
    """Requests one token, to find out whether the engine answers at all."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answered = False
        self.start()

    def run(self) -> None:
        """Send the request; an error is an answer too."""
        body = {"model": os.environ["SERVED_MODEL_NAME"], "prompt": "1", "max_tokens": 1, "input": "1"}
        for path in ("/v1/completions", "/v1/embeddings"):
            status, _, _ = ask(path, body, timeout=HANG)
            if status not in (0, 404):
                self.answered = True
                return


class Watchdog:
    """The observations of the running instance."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the observations, for a new instance."""
        self.seen = self.moved = time.monotonic()
        self.work = (0, 0.0)
        self.ready_since: float | None = None
        self.tokens = -1.0
        self.probe: Probe | None = None

    def verdict(self) -> str | None:
        """Return why the server must be killed, or None."""
        now = time.monotonic()
        status, _, waiting = ask("/health")
        if self.ready_since is None:
            if status != 200:
                return self.stuck(now)
            self.ready_since = self.seen = self.moved = now
            forget("crashes")
        if status == 503:
            return "the engine is dead (/health answers 503)"
        if status == 0:
            return f"/health has not answered for {SILENT:.0f} s" if now - self.seen > SILENT else None
        self.seen = now
        if now - self.ready_since > STEADY:
            forget("pauses")
        return self.hung(now, waiting)

    def stuck(self, now: float) -> str | None:
        """Return why a start hangs, or None: its work is bytes read and logged, and seconds of CPU."""
        import psutil

        size, used = Path(os.environ["SERVER_LOG"]).stat().st_size, 0.0
        for process in processes():
            with contextlib.suppress(psutil.Error):
                size += process.io_counters().read_chars
                used += sum(process.cpu_times()[:2])
        if size != self.work[0] or abs(used - self.work[1]) > 0.5:
            self.work, self.moved = (size, used), now
        return f"the start has done nothing for {SILENT:.0f} s" if now - self.moved > SILENT else None

    def hung(self, now: float, waiting: int) -> str | None:
        """Return why a ready server hangs, or None: open requests, but no tokens. waiting: open requests."""
        _, text, _ = ask("/metrics")
        tokens = sum(float(value) for value in TOKENS.findall(text))
        busy = waiting > 0 or any(float(value) > 0 for value in RUNNING.findall(text))
        if tokens != self.tokens or not busy or (self.probe and self.probe.answered):
            self.tokens, self.moved, self.probe = tokens, now, None
        elif now - self.moved > HANG / 2 and self.probe is None:
            self.probe = Probe()
        elif now - self.moved > HANG:
            return f"requests are open, and not one token came for {HANG:.0f} s"
        return None


def processes() -> list[Any]:
    """Return the server's processes, by the mark in their environment, like server_pids in the shell."""
    import psutil

    mark = os.environ["SERVER_ID"]
    return [
        one for one in psutil.process_iter(["environ"]) if (one.info["environ"] or {}).get("RUNBOOK_SERVER") == mark
    ]


def write_heartbeat(alive: Path) -> None:
    """Write the heartbeat for other machines that share the directory: the base URL, and the file's time."""
    with contextlib.suppress(OSError):
        if not alive.exists() or alive.read_text() != os.environ["ALIVE_URL"]:
            alive.write_text(os.environ["ALIVE_URL"])
        os.utime(alive)  # without times, the file system's clock counts


def main() -> None:
    """Check the server at every tick."""
    import psutil
    from supervisor.childutils import listener

    watchdog, last = Watchdog(), -1.0
    alive = Path(f"{os.environ['SERVER_ID']}.alive")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    atexit.register(alive.unlink, missing_ok=True)  # no heartbeat after an orderly end
    while True:
        headers, _ = listener.wait(sys.stdin, sys.stdout)
        write_heartbeat(alive)
        if headers["eventname"] == "PROCESS_STATE_FATAL":  # instance.sh itself does not start
            Path(f"{os.environ['SERVER_ID']}.failed").write_text(f"instance.sh, {os.environ['SERVER_LOG']}\n")
            os.kill(os.getppid(), signal.SIGTERM)
        starts = Path(f"{os.environ['SERVER_ID']}.starts")
        changed = starts.stat().st_mtime if starts.exists() else 0.0
        if changed != last:
            last = changed
            watchdog.reset()
        elif reason := watchdog.verdict():
            Path(f"{os.environ['SERVER_ID']}.why").write_text(reason + "\n")  # instance.sh writes it to the log
            for process in processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            watchdog.reset()
        listener.ok(sys.stdout)


if __name__ == "__main__":
    main()

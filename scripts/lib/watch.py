"""The watch over a running server: a process that lives but is dead inside, or hangs, is ended; supervisor restarts it.

An event listener of supervisor (TICK_5), run by supervisord.conf in the serving environment.
Dead: once ready, then /health answers 503, or nothing for SILENT seconds. Hung: requests are open, not one token has
been counted for HANG seconds, and a request of one token of our own stays without an answer. A long prompt counts
tokens at every step and is let be; so is a client that does not read its answer. Before it is ready: a start that for
SILENT seconds reads nothing, logs nothing and computes nothing hangs as well (a SIGTERM during the warm-up does that).
"""

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

HANG = float(os.environ.get("RUNBOOK_HANG_SECONDS", "180"))
SILENT = float(os.environ.get("RUNBOOK_SILENT_SECONDS", "60"))
STEADY = 60.0  # seconds of being ready after which the pauses begin anew
TOKENS = re.compile(r"^vllm:(?:(?:prompt|generation)_tokens_total|iteration_tokens_total_sum)\{.*\} (\S+)$", re.M)
RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", re.M)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is not for a site's proxy


def ask(path: str, body: dict[str, object] | None = None, timeout: float = 5) -> tuple[int, str, int]:
    """(status, text, open requests) of this server; status 0 when there is no answer."""
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
    """A count that instance.sh keeps begins anew."""
    Path(f"{os.environ['SERVER_ID']}.{name}").unlink(missing_ok=True)


class Probe(threading.Thread):
    """One token for ourselves: whether the engine answers at all."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answered = False
        self.start()

    def run(self) -> None:
        """Any answer but silence is one."""
        body = {"model": os.environ["SERVED_MODEL_NAME"], "prompt": "1", "max_tokens": 1, "input": "1"}
        for path in ("/v1/completions", "/v1/embeddings"):
            status, _, _ = ask(path, body, timeout=HANG)
            if status not in (0, 404):
                self.answered = True
                return


class Watch:
    """What has been seen of the instance that runs now."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """A new instance: nothing is known of it."""
        self.seen = self.moved = time.monotonic()
        self.work = (0, 0.0)
        self.ready_since: float | None = None
        self.tokens = -1.0
        self.probe: Probe | None = None

    def verdict(self) -> str | None:
        """Why the server must go, or None."""
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
        """A start without any work: bytes read and logged, seconds of CPU."""
        size, used = Path(os.environ["SERVER_LOG"]).stat().st_size, 0.0
        for pid in processes():
            with contextlib.suppress(OSError):
                size += int(re.findall(r"rchar: (\d+)", Path(f"/proc/{pid}/io").read_text())[0])
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if size != self.work[0] or abs(used - self.work[1]) > 0.5:
            self.work, self.moved = (size, used), now
        return f"the start has done nothing for {SILENT:.0f} s" if now - self.moved > SILENT else None

    def hung(self, now: float, waiting: int) -> str | None:
        """Requests, but no tokens."""
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


def processes() -> list[int]:
    """The server's processes, by the mark in their environment."""
    mark, found = f"RUNBOOK_SERVER={os.environ['SERVER_ID']}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def main() -> None:
    """One look at every tick."""
    from supervisor.childutils import listener

    watch, last = Watch(), -1.0
    while True:
        headers, _ = listener.wait(sys.stdin, sys.stdout)
        if headers["eventname"] == "PROCESS_STATE_FATAL":  # instance.sh itself does not come up
            Path(f"{os.environ['SERVER_ID']}.failed").write_text(f"instance.sh, {os.environ['SERVER_LOG']}\n")
            os.kill(os.getppid(), signal.SIGTERM)
        starts = Path(f"{os.environ['SERVER_ID']}.starts")
        changed = starts.stat().st_mtime if starts.exists() else 0.0
        if changed != last:
            last = changed
            watch.renew()
        elif reason := watch.verdict():
            Path(f"{os.environ['SERVER_ID']}.why").write_text(reason + "\n")  # instance.sh puts it into the log
            for pid in processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            watch.renew()
        listener.ok(sys.stdout)


if __name__ == "__main__":
    main()

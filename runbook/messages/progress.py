"""Progress of a download or a hash, for a terminal or a log."""

import sys
import time

from runbook.messages import tr


class ProgressBar:
    """Progress over `total` bytes: a bar on a terminal, else a line every ten seconds."""

    def __init__(self, what: str, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        self.what, self.total, self.first, self.began, self.told = what, total, done, time.monotonic(), 0.0
        self.bar: Progress | None = None
        if sys.stderr.isatty() and total:
            columns = (BarColumn(None), DownloadColumn(binary_units=True), Speed(), TimeRemainingColumn())
            self.bar = Progress(TextColumn("    {task.description}"), *columns, console=Console(stderr=True))
            self.bar.add_task(what, total=total, completed=done)
            self.bar.start()

    def update(self, done: int) -> None:
        """Show that `done` bytes are complete."""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done)
        elif (now := time.monotonic()) - max(self.told, self.began - 8) >= 10:  # the first line after two seconds
            self.told = now
            speed = max(0, done - self.first) / (now - self.began)
            rest = (self.total - done) / speed if speed else 0
            left = "—" if not speed else f"{rest:.0f} s" if rest < 100 else f"{rest / 60:.0f} min"
            text = f"{done / max(1, self.total):4.0%}  {done / 2**30:.2f}/{self.total / 2**30:.2f} GiB"
            text += f"  {speed / 2**20:.1f} MiB/s  {tr('剩余', 'left:')} {left}"
            print(f"    {self.what} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop updating the bar."""
        if self.bar:
            self.bar.stop()

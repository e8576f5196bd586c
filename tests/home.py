"""A home directory as people have it, and whether anything in it has been changed."""

import hashlib
from pathlib import Path

FILES = {
    ".bashrc": "alias ll='ls -l'\n",
    ".profile": ". ~/.bashrc\n",
    ".ssh/known_hosts": "example.com ssh-ed25519 AAAA\n",
    ".config/Code/settings.json": "{}\n",
    ".cache/thumbnails/one": "1\n",
    ".local/share/recently-used": "\n",
    "thesis/第一章.md": "# 绪论\n",
}


def furnish(home: Path) -> Path:
    """Make the directory with its files."""
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, "utf-8")
    (home / ".ssh").chmod(0o700)
    return home


def fingerprint(home: Path, *apart: Path) -> dict[str, tuple[int, int, str]]:
    """Every path with its mode, time of change in ns, and hash; but for what lies in the directories `apart`."""
    found = {}
    for path in sorted(home.rglob("*")):
        if not any(path == one or one in path.parents for one in apart):
            seen = path.lstat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(home))] = (seen.st_mode, seen.st_mtime_ns, digest)
    return found

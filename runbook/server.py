"""What is known of the running server: its processes, who listens on the port, whether it answers. Reads only."""

from pathlib import Path

from dotenv import dotenv_values

from runbook.settings import Settings


def server_id(settings: Settings) -> str:
    """The mark that every process of this server carries in its environment as RUNBOOK_SERVER."""
    return f"{settings.base_dir}/run/{settings.tmux_session}"


def pids(settings: Settings) -> set[int]:
    """The server's processes, orphans included; only those that this user may look into."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get("RUNBOOK_SERVER") == server_id(settings):
                found.add(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def listeners(port: int) -> set[int | None]:
    """Who listens on the port: process ids, None for a process of another user. Empty: nobody."""
    import psutil

    found = psutil.net_connections("tcp")
    return {item.pid for item in found if item.status == psutil.CONN_LISTEN and item.laddr and item.laddr.port == port}


def base_url(settings: Settings) -> str:
    """Where this machine reaches the server, without /v1."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def changed(settings: Settings) -> list[str]:
    """The settings that are not those the server was started with. Empty where that is not known."""
    started = Path(f"{server_id(settings)}.env")
    if not started.is_file():
        return []
    then, now = dotenv_values(started, interpolate=False), settings.env()
    minor = ("RAGFLOW_", "RUNBOOK_LANG", "PIP_INDEX_URL", "TORCH_FIND_LINKS", "MODELSCOPE_", "MODEL_REVISION")
    return [key for key, value in then.items() if now[key] != value and not key.startswith(minor)]


def in_tmux(settings: Settings) -> bool:
    """Whether the session is there; a server can also run in the foreground of some terminal."""
    import sh

    try:
        sh.tmux("has-session", "-t", f"={settings.tmux_session}")
    except (sh.CommandNotFound, sh.ErrorReturnCode):
        return False
    return True


def state(settings: Settings) -> str:
    """stopped, starting or ready. Ready means: a process of this server listens, and /health answers 200."""
    import httpx

    ours = pids(settings)
    if not ours:
        return "stopped"
    if not listeners(settings.port) & ours:
        return "starting"
    try:  # loopback is not for a site's proxy
        reply = httpx.get(f"{base_url(settings)}/health", trust_env=False, timeout=5)
        return "ready" if reply.status_code == 200 else "starting"
    except httpx.TransportError:
        return "starting"

"""chat and bench before they reach a server: their words, and a server that is not ready. The rest: tests/e2e."""

import pytest

from tests.conftest import Shell


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chat", ["Hello"]),
        ("chat", ["--question"]),
        ("chat", ["--question", ""]),
        ("bench", ["--requests"]),
        ("bench", ["--requests", "0"]),
        ("bench", ["--input", "1e3"]),
        ("bench", ["requests", "3"]),
        ("bench", ["--Successful requests", "3"]),
        ("bench", ["--", "3"]),
    ],
)
def test_words_that_are_not_understood(name: str, words: list[str], shell: Shell) -> None:
    done = shell.script(name, *words)
    assert done.returncode == 1
    assert f"{name} does not accept {' '.join(words)}.\n" in done.stderr
    assert f"  → Use: ./inv {name} --" in done.stderr


@pytest.mark.parametrize("name", ["chat", "bench"])
def test_a_server_that_is_not_ready(name: str, shell: Shell) -> None:
    assert "E21 " in shell.script(name).stderr, "nothing is installed"
    shell.vllm("exit 1")
    done = shell.script(name, LANG="zh_CN.UTF-8")
    assert done.returncode == 1
    assert f"http://127.0.0.1:{shell.settings['PORT']} 上的服务未就绪" in done.stderr
    assert "./inv tmux-start" in done.stderr
    assert "E73 docs/zh/troubleshooting.md#e73" in done.stderr

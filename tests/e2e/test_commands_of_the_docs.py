"""Every command block of the docs, in both languages, as a reader runs it: in the settings shell, page after page."""

import getpass
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pexpect

from tests.conftest import BUSY, Shell
from tests.e2e.conftest import Deployment
from tests.pages import LANGS, Block, blocks, commands, pages, plain, same
from tests.ragflow import TOKEN, Model, Ragflow, model, ragflow

LONG = 10  # seconds: a block that took longer in one language is not run again for the other
PATIENCE = 240 * BUSY  # seconds for a command
PROMPT = re.compile("\x1e([0-9]+)\x1e")


class Terminal:
    """A real terminal with the shell of scripts/support/shell.sh, into which commands are typed."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        words = ["scripts/support/shell.sh"]
        self.child = pexpect.spawn(
            "bash", words, cwd=root, env=env, encoding="utf-8", dimensions=(50, 160), timeout=60 * BUSY
        )
        self.child.expect_exact("(settings) ")
        # After each command its exit code, between two bytes that nothing else prints; and no echo of what is typed.
        self.child.sendline('PROMPT_COMMAND=\'printf "\\036%s\\036" "$?"\' PS1= PS2=; set +o emacs; stty -echo')
        self.child.expect(PROMPT)

    def run(self, command: str, seconds: float, press: tuple[str, str] | None = None) -> tuple[int | None, str]:
        """The exit code, None when it does not end, and everything that it printed."""
        self.child.sendline(command)
        said = ""
        try:
            if press:
                said = self.until(press[0], seconds)
                time.sleep(1)
                self.child.send(press[1])
            code, rest = self.end(seconds)
            return code, said + rest
        except pexpect.TIMEOUT:
            said += str(self.child.before)
            self.child.sendintr()
            return None, said + self.end(60 * BUSY)[1]

    def until(self, text: str, seconds: float) -> str:
        """Wait for a text in what the command prints."""
        self.child.expect_exact(text, timeout=seconds)
        return f"{self.child.before}{text}"

    def end(self, seconds: float) -> tuple[int, str]:
        """Wait for the command's end: its exit code, and what it has printed since."""
        self.child.expect(PROMPT, timeout=seconds)
        assert isinstance(self.child.match, re.Match)
        return int(self.child.match[1]), str(self.child.before)


@dataclass
class Walk:
    """One reader for each language, side by side through the pages, on one deployment."""

    root: Path
    env: dict[str, str]
    shown: dict[str, str]  # what this machine has, as the pages write it
    free_port: Callable[[], int]
    done: set[tuple[str, str]] = field(default_factory=set)
    ran: dict[tuple[str, str, tuple[str, ...]], tuple[float, str | None]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    took: Counter[str] = field(default_factory=Counter)
    staying: list[tuple[Terminal, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers = {lang: self.reader(lang) for lang in LANGS}

    def reader(self, lang: str) -> Terminal:
        return Terminal(self.root, self.env | {"LANG": {"zh": "zh_CN.UTF-8", "en": "C.UTF-8"}[lang]})

    def pages(self, chosen: str = "") -> None:
        """Page after page, both languages of each; who goes first takes turns."""
        for number, page in enumerate(one for one in pages() if re.search(chosen, str(one["en"]))):
            began = time.monotonic()
            for lang in (LANGS, LANGS[::-1])[number % 2]:
                for block in blocks(page[lang], lang) if lang in page else ():
                    self.block(block)
            while self.staying:
                terminal, keys = self.staying.pop()
                terminal.child.send(keys)
                terminal.end(90 * BUSY)
            self.took[page["en"].name] = round(time.monotonic() - began)

    def block(self, block: Block) -> None:
        self.counted["blocks"] += 1
        if block.mark == "not run":
            self.counted["not run"] += 1
            self.reasons[block.words] += 1
            return
        todo, began = commands(block.code), time.monotonic()
        other = LANGS[1 - LANGS.index(block.lang)]
        seconds, expected = self.ran.get((block.name, other, todo), (0, None))
        todo = tuple(command for command in todo if block.expected or self.key(block, command) not in self.done)
        # A long one is run in one language; so is one that prints the same in both.
        long = seconds > LONG and block.mark != "each"
        if not todo or long or (block.expected and block.expected == expected):
            self.counted["run on an earlier page, or in the other language"] += 1
            self.done |= {self.key(block, command) for command in todo}
            return
        said = [self.command(block, command, command == todo[-1]) for command in todo]
        self.done |= {self.key(block, command) for command in todo}
        self.ran[block.name, block.lang, commands(block.code)] = time.monotonic() - began, block.expected
        self.counted["run"] += 1
        if block.expected:
            self.counted["compared"] += 1
            got = "\n".join(filter(None, said))
            got = re.sub(r"^\[\d+\][-+]? .*\n", "", got, flags=re.M)  # bash may tell late that an earlier job has ended
            if not same(block.expected, got):
                self.fail(block, block.code, got)

    def key(self, block: Block, command: str) -> tuple[str, str]:
        """By what a command is known: our own ones speak a language."""
        return block.lang if re.search(r"\binv |scripts/", command) else "", command

    def command(self, block: Block, command: str, last: bool) -> str:
        """What it printed, as the pages write it."""
        code: int | None = 0
        try:
            if block.mark == "stays" and last:
                terminal = self.reader(block.lang)
                terminal.child.sendline(self.here(command))
                self.staying.append((terminal, block.press[1]))
                out = terminal.until(block.press[0], PATIENCE)
            else:
                press = block.press if block.mark == "keys" else None
                code, out = self.readers[block.lang].run(self.here(command), PATIENCE, press)
        except pexpect.ExceptionPexpect as error:
            self.readers[block.lang] = self.reader(block.lang)
            code, out = None, str(error)
        out = self.there(out)
        if code is None:
            self.fail(block, command, f"{out}\nit did not end: see the marks in tests/pages.py")
        elif code and not block.expected and block.mark not in ("keys", "may fail"):
            self.fail(block, command, f"{out}\nexit code {code}")
        return out

    def here(self, command: str) -> str:
        """The page's ports are examples: here each is a free one, and back again in what is printed."""
        for port in re.findall(r"(?<![\d.])2\d{4}(?!\d)", command):
            if port not in self.shown.values():
                self.shown[str(self.free_port())] = port
        for real, port in self.shown.items():
            if re.fullmatch(r"2\d{4}", port):
                command = re.sub(rf"(?<![\d.]){port}(?!\d)", real, command)
        return command

    def there(self, text: str) -> str:
        for real, page in self.shown.items():
            before = r'[\w"/]' if page == "me" else r"\w"  # "root" is a key of vLLM's JSON as well
            text = re.sub(rf"(?<!{before}){re.escape(real)}(?!\w)", page, text)
        return plain(re.sub(r"'(/home/me/[^']*)'", r"\1", text))  # quoted only for what the folder is called here

    def fail(self, block: Block, command: str, said: str) -> None:
        wanted = "" if block.expected is None else f"\n  expected:\n{block.expected}"
        self.failed.append(f"{block.place}\n  command:\n{command}{wanted}\n  got:\n{said[-3000:]}")

    def report(self) -> list[str]:
        lines = [f"{count:4d} {what}" for what, count in self.counted.items()]
        lines += [f"     {count:4d} not run: {why}" for why, count in self.reasons.most_common()]
        slow = ", ".join(f"{page} {seconds} s" for page, seconds in self.took.most_common(8))
        return [*lines, f"     {sum(self.took.values())} s: {slow}"]


def test_every_command_of_the_docs(
    deployed: Deployment, free_port: Callable[[], int], measured: Callable[[str], None], tmp_path: Path
) -> None:
    """Nothing but the env file says what is where, as for a reader; crontab is a file, and RAGFlow the stand-in."""
    own = deployed.shell
    assert own.inv("stop", timeout=120).returncode == 0
    shell = Shell(tmp_path, own.root)
    shell.stand_in("systemctl", "exit 1")
    shell.stand_in("crontab", "touch ~/table; [[ $1 == -l ]] && exec cat ~/table; cat >~/new; mv ~/new ~/table")
    env = shell.environ(HOME=tmp_path, TMUX_TMPDIR=own.home)
    env_file = own.root / ".env"
    before = env_file.read_text("utf-8")
    there, vectors = Ragflow(), Model("vec", kind="embedding")  # somebody has registered an embedding model before
    with ragflow(there) as url, model(vectors) as base_url:
        row = {"extra": {}, "max_tokens": 6144, "model_type": ["embedding"], "name": "vec"}
        held = {"id": "v1", "api_key": vectors.key, "base_url": f"{base_url}/v1", "models": {"vec": row}}
        there.providers["VLLM"], there.defaults["embedding"] = {"vllm-embed": held}, "vec@vllm-embed@VLLM"
        given = own.settings | {"RAGFLOW_URL": url, "RAGFLOW_API_KEY": TOKEN, "PIP_INDEX_URL": ""}
        env_file.write_text(before + "".join(f"{key}='{value}'\n" for key, value in given.items()), "utf-8")
        try:
            shown = {
                str(own.root): "/home/me/vllm-runbook-project",
                str(deployed.base): "/home/me/vllm-runbook",
                str(deployed.port): "20000",
                url: "http://127.0.0.1:9380",
                deployed.key: "KEY",
                getpass.getuser(): "me",
            }
            walk = Walk(own.root, env, shown, free_port)
            walk.pages()
        finally:
            env_file.write_text(before, "utf-8")
            for made in [env_file, *own.root.glob("*.env")]:  # the second server's
                own.inv("stop", timeout=120, ENV_FILE=made)
                if made != env_file:
                    made.unlink()
    measured("\n".join(walk.report()))
    assert not walk.failed, "\n\n".join(walk.failed)

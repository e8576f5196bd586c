"""The guided first day on the real thing, in a terminal: every prompt from the first to the last, in Chinese."""

import re
import shlex

from tests.conftest import BUSY, terminal
from tests.e2e.conftest import Deployment, listening


def test_step_by_step_with_skip_explain_quit_and_resume(deployed: Deployment) -> None:
    shell = deployed.shell
    assert shell.inv("stop", timeout=120).returncode == 0
    (deployed.base / "modelscope_cache").rename(deployed.base / "elsewhere")  # a step that is not done
    with terminal(shell, "deploy", "--step", RUNBOOK_LANG="zh") as person:
        person.expect_exact("动手之前，先检查")
        person.expect_exact("执行 preflight？")
        person.sendline("")
        person.expect(r"preflight +✓")
        person.expect_exact("来验证？")
        person.sendline("")
        person.expect(r"/tmux\r\n.*/ss\r\n.*/curl\r\n")
        person.expect_exact("四行路径")
        person.expect_exact("建立后续步骤要用的目录")
        person.expect_exact(f"'{deployed.base}/modelscope_cache'")  # today's value
        person.expect_exact("执行 mkdirs？")
        person.sendline("e")
        person.expect_exact("出错时")
        person.expect_exact("./inv explain venv")
        person.expect_exact("执行 mkdirs？")
        person.sendline("s")
        for name in ("venv", "install", "download"):
            person.expect(rf"{name} +✓ .*已完成")
        person.expect_exact("执行 port-check？")
        person.sendline("退出")
        person.expect(r"继续执行：\./inv (deploy --step --from port-check)\r\n")
        assert isinstance(person.match, re.Match)
        resume = shlex.split(person.match[1])
        person.expect_exact("补做：./inv mkdirs")
    assert person.exitstatus == 1, "there is no answer yet"
    assert not listening(deployed.port)

    (deployed.base / "elsewhere").rename(deployed.base / "modelscope_cache")
    with terminal(shell, *resume, RUNBOOK_LANG="zh") as person:
        person.expect_exact("执行 port-check？")
        person.sendline("")
        person.expect_exact("来验证？")
        person.sendline("跳过")
        person.expect_exact("在 tmux 中启动")
        person.expect_exact("[回车 看要执行的命令]")  # they are longer than the screen
        person.sendline("")
        person.expect_exact("--kv-cache-memory-bytes 2G")
        person.expect_exact("执行 tmux-start？")
        person.sendline("执行")
        person.expect(r"tmux-start +✓", timeout=300 * BUSY)
        person.expect_exact("来验证？")
        person.sendline("")
        person.expect_exact('"max_model_len":8192')
        person.expect_exact("执行 curl-test？")
        person.sendline("")
        person.expect_exact("AI assistant", timeout=60 * BUSY)
        person.expect(r"curl-test +✓")
        person.expect_exact("来验证？")
        person.sendline("s")
        person.expect_exact("执行 ragflow-notes？")
        person.sendline("")
        person.expect_exact("要填的值")
        person.expect_exact("来验证？")
        person.sendline("s")
        person.expect(r"部署完成（\d+ 秒）。停止：\./inv stop")
    assert person.exitstatus == 0
    assert listening(deployed.port)

    with terminal(shell, "deploy", "--step", "--from", "venv", "--to", "tmux-start", RUNBOOK_LANG="en") as person:
        person.expect(r"download +✓ .*already done")
        person.expect_exact("Run port-check?")
        person.sendline("skip")
        person.expect(r"tmux-start +✓ .*already done")
        person.expect_exact("1 skipped; to run later: ./inv port-check")
    assert person.exitstatus == 1

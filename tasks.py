"""The runbook's table of contents: one task a step. What a step runs is scripts/NAME.sh; why is docs/*/*NAME.md."""

import shlex
import signal

from invoke import Collection, Context, task

from runbook import guide, steps

signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `./inv … | head` ends as every command does


@task(
    help={
        "dry": "只显示命令，不改变任何东西 · Only show the commands",
        "step": "每一步先讲解再询问 · Explain each step, and ask",
        "from": "从这一步开始 · The step to begin with",
        "to": "到这一步为止 · The step to end with",
    }
)
def deploy(c: Context, dry: bool = False, step: bool = False, from_: str | None = None, to: str | None = None) -> None:
    """按顺序完成全部步骤 · All the steps in order, to a real answer."""
    (guide if step else steps).deploy(dry, from_, to)


@task(
    positional=guide.words(),
    help={"step": "步骤名，不写则全部列出 · Left out: lists them", "lang": "语言 zh 或 en · Language, zh or en"},
)
def explain(c: Context, step: str | None = None, lang: str = "") -> None:
    """讲解一步 · Show a step's page, and its commands with your settings."""
    guide.explain(step or "", lang)


@task
def preflight(c: Context) -> None:
    """0 检查本机 · Check that this machine has what the steps need."""
    steps.run("preflight")


@task
def mkdirs(c: Context) -> None:
    """1.1 建目录 · Make the folders."""
    steps.run("mkdirs")


@task
def venv(c: Context) -> None:
    """1.2 建虚拟环境 · Make the Python environment of vLLM."""
    steps.run("venv")


@task
def install(c: Context) -> None:
    """1.3 安装 vLLM 等 · Install vLLM and ModelScope, as locked."""
    steps.run("install")


@task(help={"verify": "逐个文件比对哈希，不下载 · Compare every file's hash, fetch nothing"})
def download(c: Context, verify: bool = False) -> None:
    """2 下载模型 · Get the model, from ModelScope or the embedded one."""
    steps.run("download", *steps.flags(verify=verify))


@task
def port_check(c: Context) -> None:
    """3.1 检查端口 · See that the port is free, or this server's."""
    steps.run("port-check")


@task
def serve(c: Context) -> None:
    """3.2 前台启动 · Serve in the foreground; Ctrl-C stops it."""
    steps.foreground("serve")


@task
def tmux_start(c: Context) -> None:
    """4.1 tmux 中启动 · Start in tmux and wait until it answers."""
    steps.run("tmux-start")


@task
def tmux_ls(c: Context) -> None:
    """4.2 列出会话 · List the tmux sessions."""
    steps.foreground("tmux-ls")


@task
def tmux_attach(c: Context) -> None:
    """4.2 进入会话 · Look into the session; Ctrl-B D leaves it."""
    steps.foreground("tmux-attach")


@task(help={"json": "输出 JSON · Print JSON"})
def status(c: Context, json: bool = False) -> None:
    """4.2 查看状态 · Say how the server is; exit 0 only when ready."""
    steps.foreground("status", *steps.flags(json=json))


@task(
    help={
        "follow": "持续显示新内容 · Go on with what comes",
        "since": "从何时起，如 10m、2h · From when on, such as 10m or 2h",
        "errors": "只看错误 · Only the errors",
    }
)
def logs(c: Context, follow: bool = False, since: str = "", errors: bool = False) -> None:
    """4.2 查看日志 · Show the server's log."""
    steps.foreground("logs", *steps.flags(follow=follow, since=since, errors=errors))


@task
def restart(c: Context) -> None:
    """4.2 重启服务 · Stop the server and start it with the settings of now."""
    steps.foreground("restart")


@task
def boot_on(c: Context) -> None:
    """4.3 开机自动启动 · Start the server whenever the machine boots."""
    steps.foreground("boot-on")


@task
def boot_off(c: Context) -> None:
    """4.3 取消开机启动 · Start it at boot no more."""
    steps.foreground("boot-off")


@task
def stop(c: Context) -> None:
    """4.2 停止服务 · Stop the server; prove that nothing is left."""
    steps.foreground("stop")


@task
def curl_test(c: Context) -> None:
    """5 自测接口 · Ask the server one question."""
    steps.run("curl-test")


@task(help={"question": "只问这一句 · Ask only this"})
def chat(c: Context, question: str = "") -> None:
    """5 终端对话 · Talk to the server; Ctrl-D leaves."""
    steps.foreground("chat", *steps.flags(question=question))


@task(
    help={
        "requests": "请求总数，默认 8 · Requests in all, 8 if not given",
        "concurrency": "同时进行几个，默认 4 · How many at a time, 4",
        "input": "每个问题多少 token，默认 256 · Tokens in each question, 256",
        "output": "每个回答多少 token，默认 64 · Tokens in each answer, 64",
    }
)
def bench(c: Context, requests: str = "", concurrency: str = "", input: str = "", output: str = "") -> None:
    """5 测速 · Measure how fast the running server is."""
    steps.tool("bench", *steps.flags(requests=requests, concurrency=concurrency, input=input, output=output))


@task
def ragflow_notes(c: Context) -> None:
    """6 RAGFlow 填写说明 · What to enter in RAGFlow."""
    steps.run("ragflow-notes")


@task(help={"json": "输出 JSON · Print JSON"})
def plan(c: Context, json: bool = False) -> None:
    """规划显存 · What fits: card, share of memory, context."""
    steps.tool("plan", *steps.flags(json=json))


@task(help={"log": "改看这个日志 · Another log", "json": "输出 JSON · Print JSON"})
def doctor(c: Context, log: str = "", json: bool = False) -> None:
    """诊断失败原因 · Why it failed, and what mends it."""
    steps.tool("doctor", *steps.flags(log=log, json=json))


@task(
    help={
        "base_url": "RAGFlow 中填的基础 URL · The base URL entered in RAGFlow",
        "model": "RAGFlow 中填的模型名 · The model name entered there",
        "max_tokens": "RAGFlow 中填的最大 Token 数 · The Max tokens entered there",
    }
)
def ragflow_check(c: Context, base_url: str = "", model: str = "", max_tokens: int = 0) -> None:
    """6 检查 RAGFlow 所需 · Check all that RAGFlow will ask of the server."""
    steps.tool("ragflow-check", *steps.flags(base_url=base_url, model=model, max_tokens=max_tokens))


@task(
    help={
        "base_url": "RAGFlow 访问本服务的地址 · Where RAGFlow reaches this server",
        "remove": "撤回登记 · Take it back",
    }
)
def ragflow_register(c: Context, base_url: str = "", remove: bool = False) -> None:
    """6 在 RAGFlow 中登记 · Register the server in RAGFlow, and ask it there."""
    steps.tool("ragflow-register", *steps.flags(base_url=base_url, remove=remove))


@task(help={"output": "写入文件，默认输出到屏幕 · A file to write, else it is printed"})
def export(c: Context, output: str = "") -> None:
    """导出单个脚本 · One script that deploys on another machine."""
    steps.script("export", *steps.flags(output=output))


@task(
    help={
        "fast": "跳过真实部署 · Leave out what deploys for real",
        "args": "传给 pytest 的参数 · More words for pytest",
    }
)
def test(c: Context, fast: bool = False, args: str = "") -> None:
    """运行测试 · Run the tests."""
    steps.script("dev/test", *(["-m", "not slow"] if fast else []), *shlex.split(args))


@task
def lint(c: Context) -> None:
    """检查代码 · Run every checker."""
    steps.script("dev/lint")


@task
def lock(c: Context) -> None:
    """重新解析 requirements/ · Resolve the locks under requirements/ anew."""
    steps.script("dev/lock")


@task
def docs(c: Context) -> None:
    """把文档做成离线网站 · Build the pages as a site that is read offline."""
    steps.script("dev/docs")


@task
def record(c: Context) -> None:
    """录制 README 中的图 · Record the picture of the READMEs in a real terminal."""
    steps.script("dev/record")


namespace = Collection(
    deploy, explain, preflight, mkdirs, venv, install, download, port_check, serve, tmux_start, tmux_ls, tmux_attach,
    status, logs, stop, restart, boot_on, boot_off, curl_test, chat, bench, ragflow_notes, ragflow_check,
    ragflow_register, plan, doctor, export, test, lint,
)  # fmt: skip
namespace.add_collection(Collection("dev", docs, lock, record))

"""The runbook's table of contents: one task a step. What a step runs is scripts/NAME.sh; why is docs/*/*NAME.md."""

from invoke import Collection, Context, task

from runbook import steps


@task(
    help={
        "dry": "只显示命令，不改变任何东西 · Only show the commands",
        "from": "从这一步开始 · The step to begin with",
        "to": "到这一步为止 · The step to end with",
    }
)
def deploy(c: Context, dry: bool = False, from_: str | None = None, to: str | None = None) -> None:
    """按顺序完成全部步骤 · All the steps in order, to a real answer."""
    steps.deploy(dry, from_, to)


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


@task(
    help={
        "fast": "跳过真实部署 · Leave out what deploys for real",
        "args": "传给 pytest 的参数 · More words for pytest",
    }
)
def test(c: Context, fast: bool = False, args: str = "") -> None:
    """运行测试 · Run the tests."""
    steps.script("dev/test", *(["-m", "not slow"] if fast else []), *args.split())


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
    deploy, preflight, mkdirs, venv, install, download, port_check, serve, tmux_start, tmux_ls, tmux_attach,
    status, logs, stop, restart, boot_on, boot_off, curl_test, ragflow_notes, ragflow_check, ragflow_register,
    plan, doctor, test, lint,
)  # fmt: skip
namespace.add_collection(Collection("dev", docs, lock, record))

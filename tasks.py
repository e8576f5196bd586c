"""The runbook's tasks, one for each step. A step runs scripts/NAME.sh; docs/*/*NAME.md explains it."""

import os
import shlex
import signal

from invoke import Collection, Context

from runbook import members, steps, walkthrough
from runbook.settings import load
from runbook.steps import flags, run_script, run_step, run_until_ctrl_c, task

ALL = {"all": "deploy --rag 的全部服务 · Every server of deploy --rag"}
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `./inv … | head` ends like any other command


@task(
    help={
        "dry": "只显示命令，不改变任何东西 · Only show the commands",
        "step": "每一步先讲解再询问 · Explain each step, and ask",
        "rag": "再部署向量模型等 · Also an embedding model and, if set, a reranker",
        "from": "从这一步开始 · Begin with this step",
        "to": "到这一步为止 · End with this step",
    }
)
def deploy(
    c: Context,
    dry: bool = False,
    step: bool = False,
    rag: bool = False,
    from_: str | None = None,
    to: str | None = None,
) -> None:
    """按顺序执行全部步骤 · Run all steps, to a real answer."""
    if rag:
        members.prepare(dry)
    (walkthrough if step else steps).deploy(dry, from_, to, members.deploy if rag else steps.nothing_more)


@task(
    positional=walkthrough.words(),
    help={"step": "步骤名，不写则全部列出 · Without it: list all", "lang": "语言 zh 或 en · Language, zh or en"},
)
def explain(c: Context, step: str | None = None, lang: str = "") -> None:
    """讲解一个步骤 · Show a step's page, and its commands with your settings."""
    walkthrough.explain(step or "", lang)


@task
def preflight(c: Context) -> None:
    """0 检查本机 · Check that this machine meets the requirements."""
    run_step("preflight")


@task
def mkdirs(c: Context) -> None:
    """1.1 创建目录 · Create the directories."""
    run_step("mkdirs")


@task
def venv(c: Context) -> None:
    """1.2 创建虚拟环境 · Create the virtual environment of vLLM."""
    run_step("venv")


@task
def install(c: Context) -> None:
    """1.3 安装 vLLM 等 · Install vLLM and ModelScope, as locked."""
    run_step("install")


@task(help={"verify": "逐个文件比对哈希，不下载 · Compare every file's hash, download nothing"})
def download(c: Context, verify: bool = False) -> None:
    """2 下载模型 · Download the model, or make the embedded one."""
    run_step("download", *flags(verify=verify))


@task
def port_check(c: Context) -> None:
    """3.1 检查端口 · Check that the port is free, or this server's."""
    run_step("port-check")


@task
def serve(c: Context) -> None:
    """3.2 前台启动 · Serve in the foreground; Ctrl-C stops it."""
    run_until_ctrl_c("serve", patience=60)


@task
def tmux_start(c: Context) -> None:
    """4.1 在 tmux 中启动 · Start in tmux and wait until it answers."""
    run_step("tmux-start")


@task
def tmux_ls(c: Context) -> None:
    """4.2 列出会话 · List the tmux sessions."""
    run_until_ctrl_c("tmux-ls")


@task
def tmux_attach(c: Context) -> None:
    """4.2 进入会话 · Attach to the session; Ctrl-B D leaves it."""
    run_until_ctrl_c("tmux-attach")


@task(help={"json": "输出 JSON · Print JSON", **ALL})
def status(c: Context, json: bool = False, all: bool = False) -> None:
    """4.2 查看状态 · Show the server's state; exit 0 only when ready."""
    members.run(all, lambda: run_until_ctrl_c("status", *flags(json=json)))


@task(
    help={
        "follow": "持续显示新内容 · Keep showing new lines",
        "since": "从何时起，如 10m、2h · Since when, such as 10m or 2h",
        "errors": "只看错误 · Only the errors",
        **ALL,
    }
)
def logs(c: Context, follow: bool = False, since: str = "", errors: bool = False, all: bool = False) -> None:
    """4.2 查看日志 · Show the server's log."""
    members.run(all, lambda: run_until_ctrl_c("logs", *flags(follow=follow, since=since, errors=errors)))


@task(help=ALL)
def restart(c: Context, all: bool = False) -> None:
    """4.2 重启服务 · Restart the server with the current settings."""
    members.run(all, lambda: run_until_ctrl_c("restart"))


@task(help=ALL)
def boot_on(c: Context, all: bool = False) -> None:
    """4.3 开机自动启动 · Start the server at boot."""
    members.run(all, lambda: run_until_ctrl_c("boot-on"))


@task(help=ALL)
def boot_off(c: Context, all: bool = False) -> None:
    """4.3 取消开机启动 · Disable start at boot."""
    members.run(all, lambda: run_until_ctrl_c("boot-off"))


@task(help=ALL)
def stop(c: Context, all: bool = False) -> None:
    """4.2 停止服务 · Stop the server and check that nothing is left."""
    members.run(all, lambda: run_until_ctrl_c("stop"))


@task
def curl_test(c: Context) -> None:
    """5 自测接口 · Ask the server one question."""
    run_step("curl-test")


@task(help={"question": "只问这一句 · Ask only this"})
def chat(c: Context, question: str = "") -> None:
    """5 终端对话 · Chat with the server; Ctrl-D quits."""
    run_until_ctrl_c("chat", *flags(question=question))


@task(
    help={
        "requests": "请求总数，默认 8 · Total requests, default 8",
        "concurrency": "同时进行几个，默认 4 · How many at a time, default 4",
        "input": "每个问题多少 token，默认 256 · Tokens in each question, default 256",
        "output": "每个回答多少 token，默认 64 · Tokens in each answer, default 64",
    }
)
def bench(c: Context, requests: str = "", concurrency: str = "", input: str = "", output: str = "") -> None:
    """5 测速 · Measure how fast the running server is."""
    run_script("bench", *flags(requests=requests, concurrency=concurrency, input=input, output=output), settings=load())


@task
def ragflow_preflight(c: Context) -> None:
    """6 检查 RAGFlow 的机器 · Check that this machine can run RAGFlow."""
    run_script("ragflow-preflight", settings=load())


@task
def ragflow_notes(c: Context) -> None:
    """6 RAGFlow 填写说明 · Show what to enter in RAGFlow."""
    run_step("ragflow-notes")


@task(help={"json": "输出 JSON · Print JSON", "all": "本机全部服务 · All your servers on this machine together"})
def plan(c: Context, json: bool = False, all: bool = False) -> None:
    """规划显存 · Show what fits: GPU, share of memory, context length."""
    run_script("plan", *flags(json=json, all=all), settings=load())


@task(help={"log": "改看这个日志 · Another log", "json": "输出 JSON · Print JSON", **ALL})
def doctor(c: Context, log: str = "", json: bool = False, all: bool = False) -> None:
    """诊断失败原因 · Name the cause of a failure, and the fix."""
    members.run(all, lambda: run_script("doctor", *flags(log=log, json=json), settings=load()))


@task(
    help={
        "base_url": "RAGFlow 中填的基础 URL · The base URL entered in RAGFlow",
        "model": "RAGFlow 中填的模型名 · The model name entered there",
        "max_tokens": "RAGFlow 中填的最大 Token 数 · The Max tokens entered there",
    }
)
def ragflow_check(c: Context, base_url: str = "", model: str = "", max_tokens: int = 0) -> None:
    """6 检查 RAGFlow 所需 · Check everything that RAGFlow needs."""
    run_script("ragflow-check", *flags(base_url=base_url, model=model, max_tokens=max_tokens), settings=load())


@task(
    help={
        "base_url": "RAGFlow 访问本服务的地址 · Where RAGFlow reaches this server",
        "remove": "撤回登记 · Remove the registration",
    }
)
def ragflow_register(c: Context, base_url: str = "", remove: bool = False) -> None:
    """6 在 RAGFlow 中登记 · Register the server in RAGFlow, and ask a question there."""
    words = flags(base_url=base_url, remove=remove)
    members.run(True, lambda: run_script("ragflow-register", *words, settings=load()), backwards=remove)


@task(
    positional=["question"],
    optional=["question"],
    help={
        "question": "问题，不写则问默认的一句 · Without it: a default question",
        "docs": "文档目录，默认为本项目的文档 · The directory, default: the project's pages",
        "remove": "全部撤回 · Remove everything that was created",
    },
)
def ragflow_ask(c: Context, question: str | None = None, docs: str = "", remove: bool = False) -> None:
    """6 就自己的文档提问 · Ask RAGFlow a question over your own documents."""
    words = flags(docs=docs and os.path.abspath(docs), remove=remove) + ([question] if question else [])
    run_script("ragflow-ask", *words, settings=load())


@task(help={"output": "写入文件，默认输出到屏幕 · Write to a file instead of the screen"})
def export(c: Context, output: str = "") -> None:
    """导出单个脚本 · One script that deploys on another machine."""
    run_script("export", *flags(output=output))


@task(
    help={
        "fast": "不做真实部署 · Without a real deployment",
        "all": "全部测试 · Every test",
        "args": "传给 pytest 的参数 · Options for pytest",
    }
)
def test(c: Context, fast: bool = False, all: bool = False, args: str = "") -> None:
    """运行测试 · Run the tests: the fast ones and one deployment."""
    run_script("dev/test", *flags(fast=fast, all=all), *shlex.split(args))


@task
def lint(c: Context) -> None:
    """检查代码 · Run every checker."""
    run_script("dev/lint")


@task
def lock(c: Context) -> None:
    """重新解析 requirements/ · Resolve the locks in requirements/ again."""
    run_script("dev/lock")


@task
def docs(c: Context) -> None:
    """把文档做成离线网站 · Build the pages as an offline site."""
    run_script("dev/docs")


@task
def record(c: Context) -> None:
    """录制 README 中的图 · Record the picture of the READMEs in a real terminal."""
    run_script("dev/record")


namespace = Collection(
    deploy, explain, preflight, mkdirs, venv, install, download, port_check, serve, tmux_start, tmux_ls, tmux_attach,
    status, logs, stop, restart, boot_on, boot_off, curl_test, chat, bench, ragflow_preflight, ragflow_notes,
    ragflow_check, ragflow_register, ragflow_ask, plan, doctor, export, test, lint,
)  # fmt: skip
namespace.add_collection(Collection("dev", docs, lock, record))

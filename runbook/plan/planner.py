"""The plan for a start now: which GPU, which share of its memory, which context length, and why. Reads only."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from runbook.machine.gpus import given, held, is_named, look, owner, server_pids
from runbook.machine.memory import GIB, Memory, UnknownError, gib, read_ram, together
from runbook.messages import Fault, tr
from runbook.plan.cards import Card, bar, cards, chosen
from runbook.plan.estimate import CPU_KV, MOST, Estimate, advice, cache_of, estimate
from runbook.plan.model import Model, the_model
from runbook.plan.request import BESIDE, ENOUGH, Request, cpu_dtype, overridden, the_request
from runbook.plan.rules import problems
from runbook.plan.servers import Server, Settings, servers
from runbook.plan.smaller import smaller

KEYS = ("gpu_index", "gpu_memory_utilization", "max_model_len", "weights_gib", "kv_cache_gib", "fits")


def needs(settings: Settings, memory: Memory) -> tuple[int, int]:
    """Return the (least, wanted) bytes of a server of ours on a GPU; 0, 0 if it is on another one, or unknown.

    wanted: one context of BESIDE tokens for a chat model; least: a quarter of the tokens.
    """
    if settings["GPU"] not in ("auto", memory.gpus) or settings.get("PROFILE") == "cpu":
        return 0, 0
    if settings["GPU_MEMORY_UTILIZATION"] != "auto":
        size = int(float(settings["GPU_MEMORY_UTILIZATION"]) * memory.total)
        return size, size
    try:
        model, request = the_model(settings), the_request(settings)
    except (UnknownError, ValueError):
        return 0, 0
    whole, enough = Memory(memory.gpus, memory.total, memory.total), min(request.enough, BESIDE)
    sizes = (
        estimate(model, whole, replace(request, enough=tokens)).share * memory.total for tokens in (enough // 4, enough)
    )
    least, wanted = map(int, sizes)
    return least, wanted


def divided(own: tuple[int, int], others: list[tuple[int, int]], free: int) -> list[int]:
    """Return the bytes that stay free for the other servers: what they want, or as much less as everybody gets.

    own, others: (least, wanted) bytes. The same for every order of starting.
    """
    everyone = [own, *others]
    least, wanted = (sum(sizes[i] for sizes in everyone) for i in (0, 1))
    part = 1.0 if wanted <= free else max(free - least, 0) / max(wanted - least, 1)
    return [ceil(low + part * (high - low)) for low, high in others]


class Plan:
    """A plan: `record` by its keys, with `fits` None if it is unknown; `lines` that explain it; `seqs` for vLLM.

    others: our other servers on this machine. beside: plan as if none of ours were running yet.
    """

    def __init__(
        self, settings: Settings = os.environ, others: Iterable[Server] | None = None, beside: bool = False
    ) -> None:
        self.settings, self.beside = settings, beside
        self.record: dict[str, Any] = {"profile": settings["PROFILE"], **dict.fromkeys(KEYS)}
        self.lines: list[str] = []
        self.seqs = 0
        self.gpus: list[Card] = []
        self.others = list(servers(settings) if others is None else others)
        try:
            self.make()
        except UnknownError as why:
            self.record["reason"] = str(why)

    def make(self) -> None:
        """Fill in the plan. Raises UnknownError."""
        model, request, own = the_model(self.settings), the_request(self.settings), server_pids()
        model = overridden(model, request)
        ours = own.union(*(one.pids for one in self.others))
        if self.beside:
            own = ours
        found: list[Card] = []
        kept: list[str] = []
        if self.settings["PROFILE"] == "cpu":
            memory = read_ram(own)
        else:
            found = cards(self.settings, own, ours)
            self.gpus = chosen(self.settings["GPU"], found)
            memory, request, kept = self.room(found, request)
        values, cache = estimate(model, memory, request), cache_of(model, memory, request)
        weights, token = gib(values.weights), f"{cache.block_bytes / cache.block / 1024:.1f} KiB"
        self.lines = [
            tr(
                f"{model.name}：权重 {weights}，每个 token 的 KV 缓存 {token}，上下文最长 {model.longest}",
                f"{model.name}: {weights} of weights, {token} of KV cache a token, up to {model.longest} tokens",
            )
        ]
        self.lines += self.describe(found, memory, values) + kept
        self.seqs = values.seqs
        why, ways = _problem(model, request, self.gpus, values)
        self.record["reason"] = why or _reason(values, memory)
        if why:
            if memory.gpus and why == values.problem:
                self.record["reason"] += _whose_fault(model, memory, request)
            self.record["reason"] += self.who(own) + self.instead(model, memory, found, request, ways)
        index = [int(one) if one.isdigit() else one for one in memory.gpus.split(",") if one]
        place = index[0] if len(index) == 1 else index or None
        sizes = (round(size / GIB, 2) for size in (values.weights, values.room))
        self.record |= dict(zip(KEYS, (place, values.share, values.context, *sizes, not why), strict=True))

    def room(self, found: list[Card], request: Request) -> tuple[Memory, Request, list[str]]:
        """Return what this server may take of its GPUs, the request for that, and what is kept for our others."""
        if request.share:
            return together([one.memory for one in self.gpus]), request, []
        if any(one.others for one in self.gpus) and request.enough == ENOUGH:
            request = replace(request, enough=BESIDE)
        memory, lines = together([one.available for one in self.gpus]), list[str]()
        if len(found) == 1:  # with more GPUs each server takes the one with the most free memory
            waiting = [one for one in self.others if self.beside or not one.pids]
            sizes = divided(needs(self.settings, memory), [needs(one.settings, memory) for one in waiting], memory.free)
            for one, size in zip(waiting, sizes, strict=True):
                if size:
                    lines.append(tr(f"为 {one.name} 保留 {gib(size)}", f"{gib(size)} are kept for {one.name}"))
            memory = replace(memory, free=max(memory.free - sum(sizes), 0))
        return memory, request, lines

    def describe(self, found: list[Card], memory: Memory, values: Estimate) -> list[str]:
        """Return a line for each GPU, or for the RAM, and what nvidia-smi complains about."""
        if not found:
            return [
                tr(
                    f"{memory}：空闲 {gib(memory.free)} / {gib(memory.total)}",
                    f"{memory}: {gib(memory.free)} free of {gib(memory.total)}",
                )
            ]
        lines = []
        for one in found:
            name, free, total = f"{one.memory}（{one.gpu.name}）", gib(one.memory.free), gib(one.memory.total)
            zh, en = f"{name}：空闲 {free} / {total}", f"{one.memory} ({one.gpu.name}): {free} free of {total}"
            lines.append(tr(zh, en) + (tr(f"；{one.problem}", f"; {one.problem}") if one.problem else ""))
            if one in self.gpus:
                lines.append(bar(one, int(values.share * one.memory.total)))
        seen = look()
        return lines + ([f"{seen.trouble}: {seen.todo}"] if seen.trouble else [])

    def who(self, own: set[int]) -> str:
        """Return who holds the memory of the GPUs: the three largest processes of others."""
        text = ""
        for size, pid in [row for one in self.gpus for row in held(one.gpu, own, ours=False)][:3]:
            mine = next((one.name for one in self.others if pid in one.pids), "")
            name = tr(f"你的服务 {mine}", f"your server {mine}") if mine else owner(pid)
            text += tr(f"；进程 {pid}（{name}）占用 {gib(size)}", f"; pid {pid} ({name}) holds {gib(size)}")
        return text

    def instead(self, model: Model, memory: Memory, found: list[Card], request: Request, ways: list[str]) -> str:
        """Return what would fit instead, as text; each was checked against the GPU that it is for."""
        by_index = {one.gpu.index: one.gpu for one in found if not one.problem}

        def possible(place: Memory, changed: Request, other: Model = model) -> bool:
            some = place.gpus.split(",") if place.gpus else []
            gpus = [by_index[name] for name in some if name in by_index]
            return len(gpus) == len(some) and not problems(other, changed, gpus)

        others = [one.available if not request.share else one.memory for one in found if not one.problem]
        kept = min((one.keep for one in found if one.gpu.index in memory.gpus.split(",")), default=0)
        whole = replace(memory, free=memory.free + kept)
        if kept and not request.share and possible(memory, request) and not estimate(model, whole, request).problem:
            ways.append("GPU_KEEP_FREE_GIB=0")
        ways += list(advice(model, memory, others, request, possible))[:3]
        if memory.gpus and not model.packed and len(ways) < 3:
            for name, other in smaller(self.settings["MODEL_ID"]):
                changed = replace(request, fp8=False)
                if not estimate(other, memory, changed).problem and possible(memory, changed, other):
                    ways.append(f"MODEL_ID={name} ({gib(estimate(other, memory, changed).weights)})")
                    break
        words = tr("，或 ", ", or ").join(ways) or tr(
            "更多空闲内存，或更小的模型", "more free memory, or a smaller model"
        )
        return tr(f"。可行的改法：{words}", f". What would fit: {words}")


def _problem(model: Model, request: Request, gpus: list[Card], values: Estimate) -> tuple[str, list[str]]:
    """Return why it cannot work, and the settings that avoid it: the rules first, then the sizes."""
    found = [(f"GPU {one.gpu.index}: {one.problem}", "") for one in gpus if one.problem]
    found += problems(model, request, [one.gpu for one in gpus])
    if found:
        return tr("；", "; ").join(text for text, _ in found), [way for _, way in found if way]
    return values.problem, []


def _whose_fault(model: Model, memory: Memory, request: Request) -> str:
    """Return whether the GPU is too small for what is asked, or only its free memory."""
    if estimate(model, replace(memory, free=memory.total), request).problem:
        return tr("；这张 GPU 本身就不够大", "; the GPU itself is too small for that")
    return tr("；GPU 本身够大，但显存已被占用", "; the GPU is large enough, but its memory is in use")


def _reason(values: Estimate, memory: Memory) -> str:
    budget = values.share * memory.total
    own_size, room, weights = gib(budget - values.weights - values.room), gib(values.room), gib(values.weights)
    text = tr(
        f"{gib(budget)} = 权重 {weights} + vLLM 自身约 {own_size} + KV 缓存 {room}；"
        f"上下文 {values.context} 个 token，可同时 {values.at_once:.1f} 个",
        f"{gib(budget)} = {weights} of weights + about {own_size} for vLLM itself + {room} of KV cache; "
        f"{values.context} tokens of context, {values.at_once:.1f} of them at once",
    )
    if values.seqs:
        text += tr(
            f"；每个请求还要保存一份状态，因此 --max-num-seqs {values.seqs}",
            f"; every request keeps a state as well, so --max-num-seqs {values.seqs}",
        )
    return text


def make_plan() -> tuple[dict[str, Any], list[str]]:
    """Return the plan by its keys, with `fits` None if it is unknown, and the lines that explain it."""
    plan = Plan()
    return plan.record, plan.lines


def make_all() -> list[tuple[Server, dict[str, Any]]]:
    """Return every server of ours on this machine with its plan, as if none were running: the order does not matter."""
    own = Server(dict(os.environ), frozenset(server_pids()))
    everyone = [own, *servers()]
    return [
        (one, Plan(one.settings, [other for other in everyone if other is not one], beside=True).record)
        for one in everyone
    ]


def gpu_setting(record: Mapping[str, Any]) -> str:
    """Return the GPU of a plan in the format of the setting GPU; the setting itself if the plan has none."""
    index = record["gpu_index"]
    return os.environ["GPU"] if index is None else ",".join(map(str, index if isinstance(index, list) else [index]))


def choose() -> tuple[str, str, str, str, int, str]:
    """Return, for serve.sh, (fits; GPU; GPU_MEMORY_UTILIZATION; dtype for a CPU; --max-num-seqs or 0; reason).

    fits: yes, no or unknown.
    If the sizes are unknown, it takes the GPU with the most free memory, and that less a margin. Raises Fault E207 if
    there is no GPU.
    """
    plan, share = Plan(), os.environ["GPU_MEMORY_UTILIZATION"]
    record, seen = plan.record, look() if os.environ["PROFILE"] == "gpu" else None
    if seen and not seen.gpus:
        raise Fault(
            "E207", why=seen.trouble or tr("nvidia-smi 没有列出任何 GPU", "nvidia-smi lists no GPU"), todo=seen.todo
        )
    gpu = gpu_setting(record)
    if not seen:
        if share == "auto" and record["fits"] is not None and record["kv_cache_gib"] != CPU_KV / GIB:
            share = f"{record['gpu_memory_utilization']:g}"
    elif record["fits"] is not None:
        share = f"{record['gpu_memory_utilization']:g}" if share == "auto" else share
    else:
        visible = given() if gpu == "auto" else None
        usable = [one for one in seen.gpus if visible is None or any(is_named(one, name) for name in visible)]
        if gpu == "auto":
            gpu = max(usable or list(seen.gpus), key=lambda one: one.free).index
        free = min(
            (one.free / one.total - 0.03 for one in usable if one.total and one.index in gpu.split(",")), default=MOST
        )
        share = f"{max(min(free, MOST), 0.01):.2f}" if share == "auto" else share
    fits = {True: "yes", False: "no", None: "unknown"}[record["fits"]]
    return fits, gpu, share, cpu_dtype(), plan.seqs, record["reason"]

"""The table of GPUs on the plan's pages is what the plan computes; the failure shows what belongs there."""

from dataclasses import replace

import pytest

from runbook import ROOT
from runbook.machine.gpus import CONTEXT, CUDA_SEES
from runbook.machine.memory import Memory
from runbook.plan.cards import KEEP
from runbook.plan.estimate import LEAST, estimate
from runbook.plan.model import KNOWN
from runbook.plan.request import BESIDE, ENOUGH, Request
from runbook.plan.smaller import QWEN, listed

CARDS = {"8 GB": 8192, "12 GB": 12288, "16 GB": 16380, "24 GB": 24564, "40 GB": 40960, "48 GB": 49140, "80 GB": 81559}
MODELS = [(QWEN, KNOWN[QWEN]), *listed()]
NOTHING = {"zh": "放不下", "en": "does not fit"}


def line(total_mib: int, shared: bool, lang: str) -> str:
    """The lines of .env for a GPU alone, or one of which somebody else holds a quarter."""
    total = int(total_mib * 2**20 * CUDA_SEES)
    free = min(total_mib * 2**20 - CONTEXT, total) - (total_mib * 2**20 // 4 + KEEP if shared else 0)
    wish = Request(None, None, 2, 2, enough=BESIDE if shared else ENOUGH)
    for name, model in MODELS:
        wanted = replace(wish, fp8=False)
        found = estimate(model, Memory("0", total, max(free, 0)), wanted)
        if not found.problem and found.context >= 4 * LEAST:
            chosen = [] if name == QWEN else [f"MODEL_ID={name}"]
            lines = [*chosen, f"GPU_MEMORY_UTILIZATION={found.share:g}", f"MAX_MODEL_LEN={found.context}"]
            return "<br>".join(f"`{one}`" for one in lines)
    return NOTHING[lang]


def table(lang: str) -> str:
    heads = {
        "zh": "| GPU 显存 | 只有你使用 | 他人占用四分之一 |",
        "en": "| GPU memory | nobody else uses it | somebody else holds a quarter |",
    }
    rows = [f"| {name} | {line(mib, False, lang)} | {line(mib, True, lang)} |" for name, mib in CARDS.items()]
    return "\n".join([heads[lang], "|---|---|---|", *rows])


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_the_page_has_what_the_plan_computes(lang: str) -> None:
    page = (ROOT / f"docs/{lang}/0-plan.md").read_text("utf-8")
    assert table(lang) in page, f"\n{table(lang)}"

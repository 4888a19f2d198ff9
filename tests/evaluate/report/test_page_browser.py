"""The report page in a real browser: it renders, sorts, filters, shows no error, asks nobody."""

import asyncio
import re

import pytest

from lorat.evaluate.report.page import write_page
from tests.evaluate.browser import CHROMIUM, open_tab
from tests.evaluate.pages import NASTY, clips_of, page_of

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium command here")

_TABLE = "table.filtered"
_NAMES = f"[...document.querySelectorAll('{_TABLE} tbody tr')]"


def _head(column: int) -> str:
    return f"{_TABLE} thead th:nth-child({column}) button"


@pytest.fixture
def page(tmp_path):
    names = ["bear-10", "bear-2", NASTY, "zebra-1", "bear-1"]
    clips = clips_of(5, tmp_path, names=names)
    path = tmp_path / "a report.html"
    write_page(path, page_of(clips, rivals=[(NASTY, clips[:3], 6.0)], remarks=[NASTY]))
    return path


async def _rows(tab, column: int, shown: bool = False) -> list[str]:
    kept = ".filter(row => !row.hidden)" if shown else ""
    return await tab.value(f"{_NAMES}{kept}.map(row => row.cells[{column}].textContent)")


def _numbers(texts: list[str]) -> list[float]:
    return [float(text.replace(",", "")) for text in texts if text != "-"]


def test_the_page_renders_sorts_and_filters_without_an_error_or_a_request(page):
    async def visit() -> None:
        async with open_tab(page) as tab:
            assert await tab.value("document.querySelectorAll('section > .plots svg.plot').length") == 3
            width = await tab.value("document.querySelector('svg.plot').getBoundingClientRect().width")
            assert width > 200
            assert await tab.value("document.querySelector('h1').textContent") == "LoRAT B-224"
            await tab.click(_head(1))
            assert await _rows(tab, 0) == [NASTY, "bear-1", "bear-2", "bear-10", "zebra-1"]
            await tab.click(_head(3))
            rising = _numbers(await _rows(tab, 2))
            assert rising == sorted(rising) and len(set(rising)) > 1
            sort = f"document.querySelector('{_TABLE} thead th:nth-child(3)')"
            assert await tab.value(f"{sort}.getAttribute('aria-sort')") == "ascending"
            await tab.click(_head(3))
            assert _numbers(await _rows(tab, 2)) == rising[::-1]
            assert await tab.value(f"{sort}.getAttribute('aria-sort')") == "descending"
            # By keyboard: cells without a number stand last, whichever way is up.
            await tab.value(f"document.querySelector('{_head(4)}').focus()")
            for _ in range(2):
                await tab.press("Enter", 13)
                assert (await _rows(tab, 3))[-2:] == ["-", "-"]
            await tab.click("label.filter input")
            await tab.type("BEAR-1")
            assert sorted(await _rows(tab, 0, shown=True)) == ["bear-1", "bear-10"]
            assert await tab.value("document.querySelector('label.filter output').value") == "2 of 5"
            assert tab.errors == []
            assert tab.requests == [page.as_uri()]

    asyncio.run(visit())


def test_the_page_fits_a_narrow_window_and_follows_the_dark(tmp_path):
    # Of LaSOT_Extension, whose wide table has marks far on the right.
    clips = clips_of(2, tmp_path, dataset="lasot_ext", names=["atv-1", "atv-2"])
    page = tmp_path / "report.html"
    write_page(page, page_of(clips))

    async def visit() -> None:
        async with open_tab(page) as tab:
            grounds = []
            for scheme in ("light", "dark"):
                wish = {"name": "prefers-color-scheme", "value": scheme}
                await tab.call("Emulation.setEmulatedMedia", features=[wish])
                ground = await tab.value("getComputedStyle(document.body).backgroundColor")
                grounds.append(int(re.findall(r"\d+", ground)[0]))
            assert grounds[0] > 230 and grounds[1] < 50
            size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            await tab.call("Emulation.setDeviceMetricsOverride", **size)
            assert await tab.value("document.documentElement.scrollWidth") <= 400

    asyncio.run(visit())


def test_the_page_can_be_read_without_javascript(page):
    async def visit() -> None:
        async with open_tab(page) as tab:
            assert await tab.value("document.querySelectorAll('button, input').length") > 0
            await tab.call("Emulation.setScriptExecutionDisabled", value=True)
            await tab.open(page)
            assert await tab.value("document.querySelectorAll('button, input').length") == 0
            assert len(await _rows(tab, 0)) == 5
            heads = f"[...document.querySelectorAll('{_TABLE} th')].map(head => head.innerText)"
            assert (await tab.value(heads))[:3] == ["sequence", "frames", "AUC"]
            assert await tab.value(f"document.querySelector('{_TABLE}').offsetHeight") > 100
            assert tab.errors == []

    asyncio.run(visit())

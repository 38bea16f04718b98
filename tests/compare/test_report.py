"""The page of runs in a real browser: it sorts, filters, zooms and hides curves, without a network or an error."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.commands.test_compare import made

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's package chromium")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(offline=True, viewport={"width": 1250, "height": 1000})
    page = context.new_page()
    page.problems = []
    page.on("console", lambda line: line.type in ("error", "warning") and page.problems.append(line.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and page.problems.append(request.url))
    yield page
    assert page.problems == []
    context.close()


def opened(page, path: Path) -> float:
    """Open a file, wait until its curves are drawn, and return the seconds until the first paint."""
    page.goto(f"file://{path.resolve()}")
    page.wait_for_function("Bokeh.documents.length && Bokeh.documents[0].is_idle")
    return page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000


def column(page, number: int) -> list[str]:
    cells = page.locator(f"table.runs >> nth=0 >> tbody tr:visible td:nth-child({number})")
    return cells.all_inner_texts()


def test_a_page_of_six(cli, page, tmp_path):
    for arch, base in (("resnet20", 0.90), ("resnet32", 0.92), ("plain20", 0.89)):
        for seed in (0, 1):
            made(tmp_path / "runs", f"{arch}-{seed}", arch=arch, top1=base + seed / 200, epochs=12)
    evaluations = tmp_path / "runs" / "resnet32-1" / "evaluations"
    evaluations.mkdir()
    (evaluations / "val-confusion.csv").write_text("class,cat,<dog>\ncat,40,2\n<dog>,5,53\n")
    result = cli("compare runs --html page.html")
    assert result.status == 0, result.err
    assert os.path.getsize("page.html") < 5e6  # noqa: PTH202
    assert opened(page, Path("page.html")) < 3
    assert column(page, 1)[0] == "resnet32-1"
    page.get_by_role("columnheader", name="arch").first.click()
    assert column(page, 2) == ["plain20", "plain20", "resnet20", "resnet20", "resnet32", "resnet32"]
    page.get_by_role("columnheader", name="top-1 error").click()
    errors = [float(cell) for cell in column(page, 3)]
    assert errors == sorted(errors)
    page.get_by_role("columnheader", name="top-1 error").click()
    assert [float(cell) for cell in column(page, 3)] == errors[::-1]
    page.get_by_role("searchbox").fill("resnet32")
    assert column(page, 2) == ["resnet32", "resnet32"]
    page.get_by_role("searchbox").fill("")
    assert len(column(page, 1)) == 6
    assert page.get_by_title("<dog> taken for cat").inner_text() == "5"

    def visible() -> int:
        lines = "Bokeh.documents[0].roots()[0].renderers.filter(r => r.visible).length"
        return page.evaluate(lines)

    def shown_range() -> list[float]:
        return page.evaluate("[Bokeh.documents[0].roots()[0].x_range.start, Bokeh.documents[0].roots()[0].x_range.end]")

    assert visible() == 12
    before = shown_range()
    page.locator(".bk-item").first.click()
    page.wait_for_timeout(200)
    assert visible() == 10  # a run's two curves
    box = page.locator("canvas").first.bounding_box()  # where the click scrolled it
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.evaluate(
        "(() => { const p = Bokeh.documents[0].roots()[0]; "
        "p.toolbar.active_scroll = p.toolbar.tools.find(t => t.type === 'WheelZoomTool'); })()"
    )
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(300)
    after = shown_range()
    assert after[1] - after[0] < before[1] - before[0]


def test_a_page_of_a_hundred(cli, page, tmp_path):
    for number in range(100):
        made(tmp_path / "runs", f"run-{number:03}", top1=0.8 + number / 1000, epochs=200)
    assert cli("compare runs --html page.html").status == 0
    assert Path("page.html").stat().st_size < 10e6
    started = time.monotonic()
    paint = opened(page, Path("page.html"))
    size, drawn = Path("page.html").stat().st_size / 1e6, time.monotonic() - started
    print(f"{size:.1f} MB, first paint {paint:.2f} s, drawn {drawn:.2f} s")
    assert paint < 3
    assert len(column(page, 1)) == 100


@pytest.mark.parametrize("count", [1, 24])
def test_a_legend_takes_nothing_from_the_curves(cli, page, tmp_path, count):
    """Its names are whole, below the axes, also long ones and many."""
    for number in range(count):
        options = {"model.weights": f"/folder{number}" * 30 if number % 2 else "short", "model.optim.lr": number}
        made(tmp_path / "runs", str(number), options=options)
    assert cli("compare runs --html page.html").status == 0
    opened(page, Path("page.html"))
    plot = "Bokeh.documents[0].roots()[0]"
    assert page.evaluate(f"{plot}.inner_height") == 420
    assert page.evaluate(f"{plot}.inner_width") > 1000
    top = page.locator("canvas").first.bounding_box()["y"]
    boxes = [item.bounding_box() for item in page.locator(".bk-item").all()]
    assert len(boxes) == count
    for box in boxes:
        assert box["y"] > top + 420
        assert box["x"] > 0
        assert box["x"] + box["width"] < 1250


def test_a_study_s_page(cli, page, tmp_path):
    options = "gradients --model.arch plain8,resnet8 --batch_size 4"
    Path("mine.yaml").write_text(
        f"claim: 1 < 2 & more\nsource: none\nscales:\n  tiny: {{analyze: '{options}', cost: seconds}}\n"
    )
    result = cli("study mine.yaml --local")
    assert result.status == 0, result.err
    page.goto(f"file://{Path('studies/mine-tiny/index.html').resolve()}")
    assert page.locator("h1").inner_text() == "1 < 2 & more"
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 500)") == [True]

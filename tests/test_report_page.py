"""The page of a comparison in a real browser: tables and picture are there and fit, also on a phone."""

import io
import json
import re
import shutil
import subprocess
from html import escape, unescape

import pytest
from rich.console import Console

from tests.test_compare import run, text, tiny  # noqa: F401 (text is a fixture)
from ttr.experiments.report import html
from ttr.experiments.reproduce.claims import EXPERIMENTS
from ttr.experiments.reproduce.run import ReproduceSettings, reproduce

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


@pytest.fixture
def shown(text, tmp_path):  # noqa: F811
    """The results of a comparison, and its picture."""
    settings = tiny(text, tmp_path)
    results, _ = run(settings)
    return results, (settings.out / "comparison.png").read_bytes()


# the page in frames as wide as a phone and a desk; what is seen there is written into the outer page
OUTER = """<!doctype html><body>{frames}<pre id="seen"></pre><script>
window.onload = () => {{
  const seen = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, image = page.querySelector("img");
    return {{
      tables: [...page.querySelectorAll("table")].map(table => table.rows.length),
      formulas: [...page.querySelectorAll("math")].map(each => each.getBoundingClientRect().height),
      samples: page.querySelectorAll("pre").length,
      picture: [image.naturalWidth, image.getBoundingClientRect().width],
      overflow: page.documentElement.scrollWidth - frame.clientWidth,
      small: Math.min(
        ...[...page.querySelectorAll("p,li,td")].map(each => parseFloat(getComputedStyle(each).fontSize))
      ),
    }};
  }});
  document.getElementById("seen").textContent = JSON.stringify(seen);
}};</script></body>"""


def in_browser(page, folder, *options):
    """The DOM of a page after it has run."""
    path = folder / "outer.html"
    path.write_text(page)
    words = [
        BROWSER,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    words += ["--allow-file-access-from-files", "--virtual-time-budget=10000", *options, path.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome")
def test_the_page_shows_its_tables_and_its_picture_on_a_desk_and_on_a_phone(shown, tmp_path):
    results, png = shown
    page = html(results, png)
    frames = "".join(
        f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{escape(page)}"></iframe>'
        for width in (1200, 390)
    )
    dom = in_browser(OUTER.format(frames=frames), tmp_path, "--dump-dom")
    desk, phone = json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom)[1]))
    memories, references = len(results["memories"]), len(results["references"])
    rows = [1 + memories + references, 1 + memories, 2 + memories]
    for seen in (desk, phone):
        assert seen["tables"] == rows
        assert seen["samples"] == memories + len(results["hardest"]) + len(results["easiest"])
        assert seen["picture"][0] > 1000 and seen["picture"][1] > 700  # on a phone one moves it about
        assert seen["overflow"] <= 0 and seen["small"] >= 11


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome")
def test_the_page_prints(shown, tmp_path):
    in_browser(html(*shown), tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and len(printed) > 50_000


@pytest.mark.full
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome")
def test_the_report_of_the_claims_fits_a_desk_and_a_phone(tmp_path):
    names = ("correlated-keys", "capacity")
    reproduce(ReproduceSettings(names, "smoke", tmp_path), Console(file=io.StringIO()))
    page = (tmp_path / "report.html").read_text()
    frames = "".join(
        f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{escape(page)}"></iframe>'
        for width in (1200, 390)
    )
    dom = in_browser(OUTER.format(frames=frames), tmp_path, "--dump-dom")
    rows = [1 + len(names), *(1 + len(EXPERIMENTS[name].bands) for name in names)]
    for seen in json.loads(unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom)[1])):
        assert seen["tables"] == rows and seen["picture"][0] > 800
        assert len(seen["formulas"]) == len(names) and min(seen["formulas"]) > 15
        assert seen["overflow"] <= 0 and seen["small"] >= 11

"""The page in a real browser: no error, the JSON's numbers in its tables, no scrolling sideways."""

import html
import json
import re
import shutil
import subprocess

import pytest

from interactrank_jax.report.page import page
from tests.report.conftest import Page, check_numbers, forged

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium"),
    pytest.mark.long,  # reports on two trained runs
]


def browse(file, tmp_path, *flags: str) -> tuple[str, str]:
    """Returns the document after a browser loaded it, and what it printed to its console."""
    argv = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu"]
    argv += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", *flags]
    argv += ["--enable-logging=stderr", "--v=0", "--dump-dom", file.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, "\n".join(re.findall(r".*CONSOLE.*", done.stderr))


def test_the_console_is_heard(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><p>a</p><script>throw new Error('planted')</script>")
    assert "planted" in browse(page, tmp_path)[1]


def test_it_loads_without_an_error_and_shows_the_numbers(runs, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(runs.text)
    document, console = browse(file, tmp_path)
    assert console == ""
    shown = Page(document)
    assert shown.data == json.loads(json.dumps(runs.data))
    check_numbers(shown.data, shown.numbers)
    assert len(shown.numbers) == len(Page(runs.text).numbers)


def test_hostile_text_runs_nothing_and_fits(runs, tmp_path):
    seen, console = look(page(forged(runs.data)), tmp_path, 390, "light")
    assert console == ""
    assert seen["images"] == 0
    assert seen["scrolls"] <= seen["width"]
    assert seen["right"] <= seen["width"]


@pytest.mark.long  # starts a browser for each case
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_scrolls_sideways_and_both_schemes_are_readable(runs, tmp_path, width, scheme):
    seen, console = look(runs.text, tmp_path, width, scheme)
    assert console == ""
    assert seen["width"] == width or seen["width"] == width - 15  # without a scroll bar's
    assert seen["scrolls"] <= seen["width"]
    assert seen["right"] <= seen["width"]
    assert seen["tables"] >= 8
    assert seen["wide"]
    ink, paper = (sum(map(int, re.findall(r"\d+", seen[name])[:3])) for name in ("ink", "paper"))
    assert (ink > paper + 400) if scheme == "dark" else (paper > ink + 400)


def look(text: str, tmp_path, width: int, scheme: str) -> tuple[dict, str]:
    """Returns what a page measures in a window of a width, and what it printed to the console."""
    file = tmp_path / "frame.html"
    inner = re.sub(r"<meta http-equiv[^>]*>", "", text)  # the frame looks into it
    file.write_text(f"""<!doctype html><body style="margin:0">
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(inner)}">
</iframe><pre id="seen"></pre><script>
document.getElementById("page").onload = function () {{
  const page = this.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const ends = [...page.querySelectorAll("section, figure, .wide, ul, p, h1, h2")]
    .map(one => one.getBoundingClientRect().right);
  const colour = name => getComputedStyle(page.body)[name];
  document.getElementById("seen").textContent = JSON.stringify({{
    width: root.clientWidth, scrolls: root.scrollWidth, right: Math.max(...ends),
    tables: page.querySelectorAll("table").length,
    images: page.querySelectorAll("img").length,
    wide: [...page.querySelectorAll(".wide")].filter(one => one.scrollWidth > one.clientWidth + 1)
      .every(one => getComputedStyle(one).overflowX === "auto"),
    ink: colour("color"), paper: colour("backgroundColor")}});
}}</script>""")
    flag = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    document, console = browse(file, tmp_path, flag, "--window-size=1400,1000")
    seen = re.search(r'<pre id="seen">(.*?)</pre>', document)
    assert seen, document[:500]
    return json.loads(html.unescape(seen[1])), console

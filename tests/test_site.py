"""The documentation site: it builds strictly, and a browser shows it without an error, on a telephone too."""

import fcntl
import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    "TORCHREC_PSS_MATRIX" in os.environ, reason="the site is built with the pinned TorchRec"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # as systems name it
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PAGES = ["", "start/first_model/", "how/overview/", "results/quality/", "results/performance/", "guides/training/",
         "reference/api/modules/", "reference/api/convert/", "reference/commands/", "reference/file_formats/", "project/changelog/"]  # fmt: skip
WIDTHS = (390, 1440)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A browser that closes breaks connections off."""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder; workers of one run of pytest-xdist share it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    base = tmp_path_factory.mktemp("site") if run is None else tmp_path_factory.getbasetemp().parent / f"site-{run}"
    base.mkdir(exist_ok=True)
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "site").exists():
            build(base / "aside")
            (base / "aside").rename(base / "site")
    return base / "site"


def build(folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("there is no chromium here")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(_Quiet, directory=str(site))
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def opened(browser):
    """A page, and what goes wrong on it from now on."""
    page, wrong = browser.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # Going on to the next page aborts what this one still loads.
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}") if r.failure != "net::ERR_ABORTED" else None)
    page.on("response", lambda response: wrong.append(f"{response.status}: {response.url}") if response.status >= 400 else None)  # fmt: skip
    return page, wrong


def test_every_page_is_there_and_none_asks_for_another_host(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    for page in [*pages, Path("project/changelog.md"), Path("project/contributing.md")]:
        built = site / (page.parent if page.stem == "index" else page.with_suffix("")) / "index.html"
        text = built.read_text()
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"?(https?:[^\" >]+)", text)
        assert not loaded, f"{page}: {loaded}"
        assert "<!-- names of" not in text and "../../torchrec_pss" not in text, page


def test_the_reference_names_everything_that_is_public(site):
    package = ROOT / "torchrec_pss"
    exporting = [file.parent for file in package.rglob("__init__.py") if "__all__" in file.read_text()]
    parts = [".".join(folder.relative_to(package).parts) for folder in exporting]
    assert len(parts) >= 14 and "" in parts
    for part in parts:
        module = f"torchrec_pss.{part}".rstrip(".")
        text = (site / f"reference/api/{part.split('.')[-1] or 'torchrec_pss'}/index.html").read_text()
        for name in importlib.import_module(module).__all__:
            assert re.search(rf"href=\"[^\"]*#torchrec_pss[\w.]*\.{name}\"><code>{name}</code>", text), (
                f"{module}.{name}"
            )


def test_the_commands_page_has_every_command_and_flag(site):
    from torchrec_pss.commands import COMMANDS

    text = (site / "reference/commands/index.html").read_text()
    assert all(f'id="torchrec-pss-{command}"' in text for command in COMMANDS)
    flags = set(re.findall(r"add_(?:number|argument)\(\s*(?:\w+,\s*)?\"(--\w+)\"", (ROOT / "examples/criteo_flags.py").read_text()))  # fmt: skip
    assert len(flags) > 50 and all(f'<code class="flag">{flag}</code>' in text for flag in flags)


def test_pages_have_no_errors_and_fit_their_width(address, browser):
    page, wrong = opened(browser)
    for path in PAGES:
        page.goto(address + path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{path}: {wide} pixels wide at {width}"
        images = page.evaluate("[...document.images].map(i => [i.getAttribute('src'), i.naturalWidth])")
        assert all(natural > 0 for _, natural in images), f"{path}: {images}"
        assert not wrong, f"{path}: {wrong}"
    page.close()


def test_search_finds_a_word(address, browser):
    page, wrong = opened(browser)
    page.goto(address, wait_until="networkidle")
    page.type("input.md-search__input", "PSSShardingPlanner")  # key by key: it listens to those
    page.wait_for_selector(".md-search-result__link", timeout=20_000)
    found = [link.get_attribute("href") for link in page.query_selector_all(".md-search-result__link")]
    assert any("reference/api/planner" in link for link in found) and not wrong, (found, wrong)
    page.close()

"""Takes the README's pictures anew: plays a scenario of the demo, serves what it left, and looks at it in Chromium.

    python -m tests.screenshots

The pictures are of a real run that has just exploded; nothing in them is arranged.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

PICTURES = Path(__file__).parent
# Wide enough for the widest page, and as high as a picture between two paragraphs may be.
WIDTH, HEIGHT = 1200, 1000
SCENARIO = "rank-fault"


def main() -> None:
    """Plays the demo and takes the pictures."""
    program = str(Path(sys.executable).with_name("seismograd"))
    with tempfile.TemporaryDirectory(prefix="seismograd-pictures-") as folder:
        subprocess.run([program, "demo", "--scenario", SCENARIO, "--data-dir", folder], check=True)
        with serving(program, folder) as home, chromium() as browser:
            for picture in take(browser, home, exploded(home), PICTURES):
                print(f"{picture.name}: {picture.stat().st_size / 1024:.0f} KiB")


@contextmanager
def serving(program: str, folder: str) -> Iterator[str]:
    """A server on what the demo left; gives its address."""
    ports = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    command = [program, "serve", "--json", "--data-dir", folder, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(server.stdout.readline())['http_port']}"
        finally:
            server.terminate()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def exploded(home: str) -> str:
    """The path of the run that has a critical alert."""
    alerts = httpx.get(f"{home}/api/v1/alerts", trust_env=False).raise_for_status().json()["alerts"]
    alert = next(each for each in alerts if each["severity"] == "critical")
    return f"/runs/{alert['project']}/{alert['run']}"


def take(browser: Browser, home: str, run: str, folder: Path) -> list[Path]:
    """Takes every picture of the README; `run` is the path of the page of a run that has exploded."""
    pages = {"run": run, "postmortem": f"{run}/postmortem"}
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    pictures = []
    for name, path in pages.items():
        page.goto(f"{home}{path}", wait_until="networkidle")
        picture = folder / f"{name}.png"
        page.screenshot(path=picture)
        pictures.append(picture)
    page.close()
    return pictures


if __name__ == "__main__":
    main()

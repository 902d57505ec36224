"""The page in a real browser: it obeys its own security policy, toggles, tells values, turns dark, fits a phone, prints whole."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import fabricated
import pytest
from fabricated_analysis import analysis
from report_pages import written

from ablation.results import Analysis, Results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs a browser: apt-get install chromium (the page itself is tested without one)"
)

VARIANTS = ("concat", "film </script> & more", "mi")


def made() -> Results:
    results = fabricated.results(
        {
            variant: [[0.1 + 0.2 * number, 0.3 + 0.2 * number], [0.2 + 0.2 * number] * 2]
            for number, variant in enumerate(VARIANTS)
        }
    )
    runs = (dataclasses.replace(run, probed={"swap": dict.fromkeys(run.values, 0.05)}) for run in results.runs)
    return dataclasses.replace(results, runs=tuple(runs), command="python ablate.py")


@pytest.fixture(scope="module")
def found() -> Analysis:
    return analysis(made())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    written(folder, made(), drawn="page")
    return folder / "report.html"


def browse(page: Path, *options: str) -> tuple[str, list[str]]:
    """Opens a page in the browser. Returns what it prints and what its console said."""
    assert BROWSER
    command = [
        *(
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--enable-logging=stderr",
        ),
        *(f"--user-data-dir={page.parent / 'browser'}", "--window-size=1200,900", "--virtual-time-budget=5000"),
        *options,
    ]
    result = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120, check=True
    )
    return result.stdout, [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


def ask(page: Path, question: str, *options: str, width: int = 1000) -> Any:
    """What a function body returns when the browser runs it at the end of the page; the console must be silent.

    The page stands in a frame, because a window of a browser has a least width, which is more than a phone's.
    """
    script = f"addEventListener('load', () => parent.postMessage(JSON.stringify((() => {{ {question} }})()), '*'));"
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = page.read_text(encoding="utf-8").replace("script-src ", f"script-src 'sha256-{allowed}' ")
    page.with_name("asked.html").write_text(
        text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
    )
    frame = page.with_name("frame.html")
    frame.write_text(
        '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><output></output>'
        "<script>addEventListener('message', (event) => { document.querySelector('output').textContent = event.data; });"
        f'</script><iframe src="asked.html" style="border: 0; width: {width}px; height: 800px"></iframe>',
        encoding="utf-8",
    )
    shown, console = browse(frame, "--dump-dom", *options)
    assert console == []
    answer = re.search(r"<output>(.+?)</output>", shown, re.DOTALL)
    assert answer
    return json.loads(html.unescape(answer[1]))


def test_the_console_is_silent(page: Path) -> None:
    shown, console = browse(page, "--dump-dom")
    assert console == []
    # The script has run: it makes the panels reachable by keyboard.
    assert 'tabindex="0"><svg' in shown


def test_the_policy_holds_in_this_browser(page: Path) -> None:
    """The control: a script that the policy does not know, and a picture from elsewhere, are refused with a word on the console."""
    foreign = page.with_name("foreign.html")
    text = page.read_text(encoding="utf-8")
    addition = '<script>document.title = "broken into"</script><img src="figures/tasks.png" alt="">'
    foreign.write_text(text.replace("</body>", f"{addition}</body>"), encoding="utf-8")
    shown, console = browse(foreign, "--dump-dom")
    assert "broken into</title>" not in shown
    assert len(console) == 2 and all("Content Security Policy" in line for line in console)


def test_one_legend_rules_all_figures(page: Path) -> None:
    counts = """
        const visible = (number) => [...document.querySelectorAll(`.plot [data-variant="${number}"]`)]
            .filter((part) => getComputedStyle(part).display !== "none").length;
        const all = () => [0, 1, 2].map(visible);
        const buttons = document.querySelectorAll(".legend button[data-of]");
        const states = [all()];
        buttons[1].click(); states.push(all());
        const pressed = buttons[1].getAttribute("aria-pressed");
        buttons[1].click(); states.push(all());
        document.querySelector(".legend .all").click(); states.push(all());
        document.querySelector(".legend .all").click(); states.push(all());
        return [states, pressed];
    """
    (first, without, again, none, back), pressed = ask(page, counts)
    assert min(first) > 20
    assert without == [first[0], 0, first[2]]
    assert again == back == first
    assert none == [0, 0, 0]
    assert pressed == "false"


def test_a_pointer_reads_the_values_at_a_frame(page: Path, found: Analysis) -> None:
    place = 5
    read = f"""
        const svg = document.getElementById("learning-curve-0");
        const hover = JSON.parse(document.getElementById("hovers").textContent).find((each) => each.panel === svg.id);
        const bounds = svg.getBoundingClientRect();
        const scale = bounds.width / svg.viewBox.baseVal.width;
        const share = (hover.at[{place}] - hover.x[0]) / (hover.x[1] - hover.x[0]);
        const x = bounds.left + scale * (hover.box[0] + share * (hover.box[2] - hover.box[0]));
        document.querySelectorAll(".legend button[data-of]")[0].click();
        svg.dispatchEvent(new PointerEvent("pointermove", {{ clientX: x + 1, clientY: bounds.top + 50, bubbles: true }}));
        const tip = svg.parentElement.querySelector(".tip");
        const inside = tip.getBoundingClientRect();
        const told = [...tip.querySelectorAll("caption, td")].map((cell) => cell.textContent);
        svg.dispatchEvent(new PointerEvent("pointerleave"));
        return [told, inside.left >= 0 && inside.right <= innerWidth, tip.hidden];
    """
    told, inside, hidden = ask(page, read, width=400)
    assert float(told[0].split()[0].replace(",", "")) == pytest.approx(found.frames[place], rel=1e-3)
    assert told[1::3] == list(VARIANTS[1:])
    for number, variant in enumerate(VARIANTS[1:]):
        band = found.curves[variant][""]
        assert float(told[2 + 3 * number]) == pytest.approx(band.value[place], rel=1e-3)
        low, high = map(float, told[3 + 3 * number].strip("[]").split(", "))
        assert (low, high) == pytest.approx((band.low[place], band.high[place]), rel=1e-3)
    assert inside and hidden


def test_arrow_keys_read_the_values_too(page: Path, found: Analysis) -> None:
    read = """
        const panel = document.getElementById("profiles-0").parentElement;
        const press = (key) => panel.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        const told = [];
        for (const key of ["ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight"]) {
            press(key);
            told.push(parseFloat(panel.querySelector(".tip caption").textContent));
        }
        press("Escape");
        return [told, panel.querySelector(".tip").hidden, panel.tabIndex];
    """
    told, hidden, reachable = ask(page, read)
    assert told == pytest.approx([float(found.profile_values[place]) for place in (-1, -2, -3, -2)], rel=1e-3)
    assert hidden and reachable == 0


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_dark_or_light_as_the_system_and_can_be_switched(page: Path, dark: bool) -> None:
    """And its text stands out from its background by 4.5 to 1, lines and marks by 3 to 1."""
    read = """
        const style = getComputedStyle(document.documentElement);
        const names = ["--paper", "--page", "--ink", "--muted", "--accent", ...Array.from({ length: 8 }, (_, n) => `--v${n}`)];
        const colours = () => Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()]));
        const before = colours();
        document.getElementById("theme").click();
        const text = document.querySelector("#learning-curve-0 text");
        return [before, colours(), getComputedStyle(text).fill];
    """
    before, after, fill = ask(page, read, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    assert (luminance(before["--page"]) < 0.1) is dark
    assert (luminance(after["--page"]) < 0.1) is not dark
    for colours in (before, after):
        for name in ("--ink", "--muted", "--accent"):
            assert min(contrast(colours[name], colours[ground]) for ground in ("--paper", "--page")) >= 4.5, name
        for number in range(8):
            assert contrast(colours[f"--v{number}"], colours["--paper"]) >= 3
    red, green, blue = map(int, re.findall(r"\d+", fill)[:3])
    assert f"#{red:02x}{green:02x}{blue:02x}" == after["--ink"]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [360, 1000])
def test_nothing_is_wider_than_the_screen_and_no_letter_is_too_small(page: Path, width: int) -> None:
    read = """
        const sizes = [...document.querySelectorAll(".plot text")].map((text) => {
            const svg = text.ownerSVGElement;
            return parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
        }).filter((size) => size > 0);
        return [innerWidth, document.documentElement.scrollWidth, Math.min(...sizes), Math.max(...sizes)];
    """
    inner, needed, smallest, largest = ask(page, read, width=width)
    assert needed <= inner
    assert inner == width
    assert smallest > 7.5 and largest < 16


def test_paper_has_no_folds(page: Path) -> None:
    read = """
        const open = () => [...document.querySelectorAll("details")].map((fold) => fold.open);
        const states = [open()];
        dispatchEvent(new Event("beforeprint")); states.push(open());
        dispatchEvent(new Event("afterprint")); states.push(open());
        return states;
    """
    before, printing, after = ask(page, read)
    assert before and not any(before) and all(printing) and after == before


def test_it_prints(page: Path) -> None:
    paper = page.with_name("report.pdf")
    browse(page, f"--print-to-pdf={paper}", "--blink-settings=preferredColorScheme=0")
    assert paper.read_bytes().startswith(b"%PDF")

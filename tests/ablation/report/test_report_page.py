"""The page in a real browser: security policy, legend, values at the pointer, dark theme, phones and printing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import fabricated
import pytest
from browser import PROGRAM, Browser, Tab
from fabricated_analysis import analysis
from report_pages import written

from ablation.analysis.results import Analysis, Results

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs a browser: apt-get install chromium (the page itself is tested without one)"
)

Show = Callable[..., Tab]
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens pages and closes them after the test."""
    with ExitStack() as stack:
        yield lambda page, **how: stack.enter_context(closing(Tab(browser, page, **how)))


def ask(tab: Tab, question: str) -> Any:
    """The return value of a function body that the page runs; the console must be empty."""
    answer = tab.ask(question)
    assert tab.console == []
    return answer


def test_the_console_is_silent(page: Path, show: Show) -> None:
    # The script has run: it makes panels focusable.
    assert ask(show(page), "return document.querySelectorAll('[tabindex=\"0\"] > svg').length") > 3


def test_the_browser_enforces_the_security_policy(page: Path, show: Show) -> None:
    """Control: another script and an image from outside are refused with a message on the console."""
    foreign = page.with_name("foreign.html")
    text = page.read_text(encoding="utf-8")
    addition = '<script>document.title = "broken into"</script><img src="figures/tasks.png" alt="">'
    foreign.write_text(text.replace("</body>", f"{addition}</body>"), encoding="utf-8")
    tab = show(foreign)
    assert tab.ask("return document.title") == "Ablation on fabricated"
    assert len(tab.console) == 2 and all("Content Security Policy" in line for line in tab.console)


def test_the_legend_toggles_variants_in_all_figures(page: Path, show: Show) -> None:
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
    (first, without, again, none, back), pressed = ask(show(page), counts)
    assert min(first) > 20
    assert without == [first[0], 0, first[2]]
    assert again == back == first
    assert none == [0, 0, 0]
    assert pressed == "false"


def test_the_pointer_shows_values_at_a_frame(page: Path, found: Analysis, show: Show) -> None:
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
    expected, inside, hidden = ask(show(page, width=400), read)
    assert float(expected[0].split()[0].replace(",", "")) == pytest.approx(found.frames[place], rel=1e-3)
    assert expected[1::3] == list(VARIANTS[1:])
    for number, variant in enumerate(VARIANTS[1:]):
        band = found.curves[variant][""]
        assert float(expected[2 + 3 * number]) == pytest.approx(band.value[place], rel=1e-3)
        low, high = map(float, expected[3 + 3 * number].strip("[]").split(", "))
        assert (low, high) == pytest.approx((band.low[place], band.high[place]), rel=1e-3)
    assert inside and hidden


def test_arrow_keys_show_values(page: Path, found: Analysis, show: Show) -> None:
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
    expected, hidden, reachable = ask(show(page), read)
    assert expected == pytest.approx([float(found.profile_values[place]) for place in (-1, -2, -3, -2)], rel=1e-3)
    assert hidden and reachable == 0


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_the_system_theme_and_can_be_switched(page: Path, show: Show, dark: bool) -> None:
    """The contrast of text is at least 4.5, that of lines and marks at least 3."""
    read = """
        const style = getComputedStyle(document.documentElement);
        const names = ["--paper", "--page", "--ink", "--muted", "--accent", ...Array.from({ length: 8 }, (_, n) => `--v${n}`)];
        const colours = () => Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name).trim()]));
        const before = colours();
        document.getElementById("theme").click();
        const text = document.querySelector("#learning-curve-0 text");
        return [before, colours(), getComputedStyle(text).fill];
    """
    before, after, fill = ask(show(page, dark=dark), read)
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
def test_the_page_fits_the_screen_with_legible_letters(page: Path, show: Show, width: int) -> None:
    read = """
        const sizes = [...document.querySelectorAll(".plot text")].map((text) => {
            const svg = text.ownerSVGElement;
            return parseFloat(getComputedStyle(text).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
        }).filter((size) => size > 0);
        return [innerWidth, document.documentElement.scrollWidth, Math.min(...sizes), Math.max(...sizes)];
    """
    inner, needed, smallest, largest = ask(show(page, width=width), read)
    assert needed <= inner
    assert inner == width
    assert smallest > 7.5 and largest < 16


def test_printing_opens_folded_sections(page: Path, show: Show) -> None:
    read = """
        const open = () => [...document.querySelectorAll("details")].map((fold) => fold.open);
        const states = [open()];
        dispatchEvent(new Event("beforeprint")); states.push(open());
        dispatchEvent(new Event("afterprint")); states.push(open());
        return states;
    """
    before, printing, after = ask(show(page), read)
    assert before and not any(before) and all(printing) and after == before


def test_the_page_prints_to_pdf(page: Path, show: Show) -> None:
    assert show(page, dark=True).pdf().startswith(b"%PDF")

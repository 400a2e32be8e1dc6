"""The pages of evaluations in a browser: phone width, light and dark, legible text, links that lead somewhere."""
import re
from pathlib import Path

import numpy as np
import pytest
from test_report import report_data, results

from linear_eval import pictures
from linear_eval.report import write
from linear_eval.results import DataFacts, EncoderFacts
from linear_eval.robustness import heat_map, report
from linear_eval.robustness.heads import Head
from linear_eval.robustness.reference import Reference
from linear_eval.robustness.results import Robustness, ShiftScore
from linear_eval.robustness.scores import Hits, rows
from vision.corruptions import CORRUPTIONS

LEGIBLE = 4.5  # WCAG 2.1's contrast of text, level AA
PHONE = 360  # pixels
# Of every element with text of its own: the text, its color and the backgrounds above it, outermost first.
TEXTS = """return [...document.querySelectorAll('body *')].flatMap(one => {
    const own = [...one.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim());
    if (!own.length || one.closest('style')) return [];
    const style = getComputedStyle(one), grounds = [];
    for (let e = one; e; e = e.parentElement) grounds.unshift(getComputedStyle(e).backgroundColor);
    return [[own[0].textContent.trim(), one.ownerSVGElement ? style.fill : style.color, grounds]];
})"""


def color(text: str) -> tuple[np.ndarray, float]:
    """rgb(…) or rgba(…) → red, green, blue in 0..1, and opacity"""
    numbers = [float(n) for n in re.findall(r"[\d.]+", text)]
    return np.array(numbers[:3]) / 255, numbers[3] if len(numbers) > 3 else 1.0


def over(ground: np.ndarray, text: str, share: float = 1.0) -> np.ndarray:
    own, opacity = color(text)
    return own * opacity * share + ground * (1 - opacity * share)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """WCAG 2.1, relative luminance."""

    def luminance(rgb: np.ndarray) -> float:
        return float(np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_wcags():
    assert contrast(np.zeros(3), np.ones(3)) == pytest.approx(21)
    assert contrast(np.array([119, 119, 119]) / 255, np.ones(3)) == pytest.approx(4.48, abs=0.01)  # the usual example


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "plane", lambda x, seed: dict.fromkeys(("PCA", "t-SNE", "UMAP"), x[:, :2]))
        write(folder / "evaluation", results([f"a class of the name {i}" for i in range(10)]), report_data(10))
    shares = np.linspace(1, 0.05, 5)[None, :, None]
    hits = Hits(rng.random((2, 80)) < 0.95, {name: rng.random((2, 5, 80)) < shares for name in CORRUPTIONS})
    heads = [Head(source, "linear", {"features": "pooled+max", "rate": 0.05}, "80 validation images", 90.0, np.argmax)
             for source in ("encoder", "raw pixels")]
    shift = ShiftScore("another_set_of_the_same_classes", 80, 50.0, [40.0, 60.0], 45.0)
    made = rows(heads, hits, Reference("raw pixels", head=1), [shift, shift], 20, 0)
    evaluation = results()
    (folder / "robustness").mkdir()
    report.write(folder / "robustness", Robustness(
        "r1", {}, EncoderFacts("resnet18d", "runs/x/encoder.safetensors", 256, 1_234_567, 28, 1),
        DataFacts("odd_things", ["a", "b"], 100, 10, 80), 80, 28, "CIFAR-C's", hits.mean_over, "raw pixels", 0,
        evaluation.command, "abc", evaluation.hardware, {"torch": "2"}, 9.0, ["a note"], made,
    ))  # fmt: skip
    return {name: folder / name / "report.html" for name in ("evaluation", "robustness")}


def emulate(browser, scheme: str, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width == PHONE})  # fmt: skip


@pytest.mark.parametrize("name", ["evaluation", "robustness"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_and_a_phone_needs_no_sideways_scroll(browser, pages, name, scheme):
    emulate(browser, scheme, PHONE)
    browser.get(pages[name].as_uri())
    assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    texts = browser.execute_script(TEXTS)
    assert len(texts) > 100
    for text, ink, grounds in texts:
        ground = np.ones(3)
        for layer in grounds:
            ground = over(ground, layer)
        assert contrast(over(ground, ink), ground) >= LEGIBLE, (text, ink, grounds)


@pytest.mark.parametrize("name", ["evaluation", "robustness"])
def test_it_is_small_and_its_links_lead_somewhere(browser, pages, name):
    emulate(browser, "light", 1200)
    assert pages[name].stat().st_size < 1.5e6
    browser.get(pages[name].as_uri())
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => [a.textContent, a.hash.slice(1)])")
    assert len(links) >= 3
    assert all(browser.execute_script("return !!document.getElementById(arguments[0])", place) for _, place in links)
    assert len(browser.execute_script("return [...document.querySelectorAll('.tile')].map(t => t.textContent)")) == 3
    assert browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0)")
    widths = browser.execute_script("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)")
    assert min(widths) > 100
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_colored_cells_is_legible(browser, pages, scheme):
    emulate(browser, scheme, PHONE)
    browser.get(pages["robustness"].as_uri())
    card, ink, blue = browser.execute_script("""
        const cell = document.querySelector('svg rect'), text = document.querySelector('svg text');
        return [getComputedStyle(cell.closest('section')).backgroundColor, getComputedStyle(text).fill,
                getComputedStyle(cell).fill]
    """)
    assert heat_map.STRONGEST == pictures.STRONGEST
    for share in np.linspace(0, heat_map.STRONGEST, 16):
        ground = over(color(card)[0], blue, share)
        assert contrast(over(ground, ink), ground) >= LEGIBLE, share

"""What a page must be in a browser: legible in light and dark, no wider than a phone, small, in order, and whole by itself."""
import itertools
import re
from pathlib import Path

import numpy as np

LEGIBLE = 4.5  # WCAG 2.1's contrast of text, level AA
PHONE = 360  # pixels
LARGEST = 1.5e6  # bytes
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


def emulate(browser, scheme: str, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width == PHONE})  # fmt: skip


def check_on_a_phone(browser, page: Path, scheme: str, least_texts: int = 30) -> None:
    """No sideways scroll, and every text's contrast."""
    emulate(browser, scheme, PHONE)
    browser.get(page.as_uri())
    assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    texts = browser.execute_script(TEXTS)
    assert len(texts) > least_texts
    for text, ink, grounds in texts:
        ground = np.ones(3)
        for layer in grounds:
            ground = over(ground, layer)
        assert contrast(over(ground, ink), ground) >= LEGIBLE, (text, ink, grounds)


def check_on_a_desk(browser, page: Path, least_links: int = 3) -> None:
    """Small, its links lead somewhere, headings in order, alternative texts, and nothing from elsewhere."""
    emulate(browser, "light", 1200)
    assert page.stat().st_size < LARGEST
    assert not re.search(r"(src|href)=\"(?!data:|#)|url\((?!#)|@import", page.read_text())
    browser.get(page.as_uri())
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => [a.textContent, a.hash.slice(1)])")
    assert len(links) >= least_links
    assert all(browser.execute_script("return !!document.getElementById(arguments[0])", place) for _, place in links)
    assert len(browser.execute_script("return [...document.querySelectorAll('.tile')].map(t => t.textContent)")) == 3
    levels = [int(tag[1]) for tag in browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => e.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0 && i.alt)")
    assert browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].every(s => s.closest('[role=img]').getAttribute('aria-label'))")
    widths = browser.execute_script("return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)")
    assert not widths or min(widths) > 100
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]

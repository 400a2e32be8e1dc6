"""The pages of evaluations in a browser: phone width, light and dark, legible text, links that lead somewhere."""
from pathlib import Path

import numpy as np
import pytest
from legible import LEGIBLE, PHONE, check_on_a_desk, check_on_a_phone, color, contrast, emulate, over
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


def test_contrast_is_wcags():
    assert contrast(np.zeros(3), np.ones(3)) == pytest.approx(21)
    assert contrast(np.array([119, 119, 119]) / 255, np.ones(3)) == pytest.approx(4.48, abs=0.01)  # the usual example


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "plane", lambda x, seed, names: dict.fromkeys(("PCA", "t-SNE", "UMAP"), x[:, :2]))
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


@pytest.mark.parametrize("name", ["evaluation", "robustness"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_and_a_phone_needs_no_sideways_scroll(browser, pages, name, scheme):
    check_on_a_phone(browser, pages[name], scheme, least_texts=100)


@pytest.mark.parametrize("name", ["evaluation", "robustness"])
def test_it_is_small_and_its_links_lead_somewhere(browser, pages, name):
    check_on_a_desk(browser, pages[name])


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

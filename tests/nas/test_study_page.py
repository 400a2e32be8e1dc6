"""The page of a study, in a browser: the winner first, a front, luck, and charts; of a study without a winner too."""
import pytest
from legible import check_on_a_desk, check_on_a_phone

from nas import report_page
from nas.posterior import posterior
from nas.results import front_of
from nas.scheduler import Worker
from nas.verification import by_expectation
from tests.nas.test_scheduler import FakeEvaluator, config, in_memory, open_store  # noqa: F401


class Named(FakeEvaluator):
    """Its candidates have an encoder to describe."""

    def sample(self, trial):
        made = super().sample(trial)
        made.json |= {"encoder": {"name": "net", "image_size": 8, "arguments": {}}, "words": {"lr": 0.1}}
        return made


@pytest.fixture
def study(in_memory) -> report_page.Study:  # noqa: F811
    store, searched = open_store(), config(trials=60, sampler="random")
    Worker(store, searched, Named(size=6, unbuilt=lambda point: point[0] == 3)).run()
    records = store.records()
    found = posterior(records, searched.objectives, len(searched.halving.rungs), [])
    winner = by_expectation(front_of(records, searched), found)[0]
    return report_page.Study("s", records, [], searched, found, winner, {"text": ["Trials pause at 1, 3 and 9."]}, {"a": 1})


def test_the_winner_is_first_and_its_figures_are_the_table_s(study):
    page = report_page.page(study)
    (sentence,) = page.verdict
    assert f"trial {study.winner.number}" in sentence
    first = page.tiles[0]
    assert first.title == f"knn, trial {study.winner.number}"
    rows = {row[0]: row for row in dict(page.sections)["The front"][1].rows}
    assert f"{study.winner.figures['knn']:.4g}" in rows[str(study.winner.number)]
    assert {"front.svg", "history.svg", "report.md", "report.html"} == set(page.files)
    assert "could not be built" in page.text(report_page.PRINTED)


def test_a_study_without_a_trial_has_a_page(study):
    page = report_page.page(report_page.Study("s", [], [], study.config, None, None, {}, {}))
    assert page.verdict == ["There is no winner: nothing was trained to the end."]
    assert list(page.tiles) == []
    assert set(page.files) == {"report.md", "report.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(browser, study, tmp_path, scheme):
    file = tmp_path / "report.html"
    file.write_text(report_page.page(study).html)
    check_on_a_phone(browser, file, scheme)
    check_on_a_desk(browser, file)

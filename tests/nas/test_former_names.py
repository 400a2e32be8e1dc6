"""An objective's former name is understood, and a study that was begun with it resumes under either."""
import pytest

from core import cli
from core.identity import identity
from nas import checks, results, study
from nas.settings import parse_objectives
from nas.store import TrialStore
from nas.trial_record import RungResult

BASE = ["study=s", "data=digits", "epochs=1"]


def open_store(*overrides: str, reset_untrained: bool = False) -> TrialStore:
    settings = cli.compose(study.TOOL, [*BASE, *overrides])
    checks.check(settings)
    return study.open_store(settings, reset_untrained)


def test_linear_is_logistic():
    assert parse_objectives("linear,macs") == parse_objectives("logistic,macs") == ["logistic", "macs"]
    settings = cli.compose(study.TOOL, [*BASE, "objectives='linear,macs'"])
    assert study.search_config(settings).objectives == {"logistic": "maximize", "macs": "minimize"}
    with pytest.raises(ValueError, match="each once"):
        checks.check(cli.compose(study.TOOL, [*BASE, "objectives='linear,logistic'"]))


@pytest.mark.parametrize("name", ["linear", "logistic"])
def test_a_study_begun_as_linear_resumes(tmp_path, monkeypatch, name):
    """Its settings and its trials' figures are those that an earlier version wrote."""
    monkeypatch.chdir(tmp_path)
    settings = cli.compose(study.TOOL, [*BASE, "objectives=linear"])
    before = TrialStore("s", "auto", {"linear": "maximize"}, identity(settings))
    assert before.study.user_attrs["settings"]["objectives"] == "linear"
    trial = before.study.ask()
    trial.set_user_attr("rungs", [{"epochs": 1.0, "values": [90.0], "figures": {"linear": 90.0}}])
    after = open_store(f"objectives={name}")
    assert after.settings["objectives"] == "logistic"
    [record] = after.records()
    assert record.rungs == [RungResult(1.0, [90.0], {"logistic": 90.0})]
    assert results.format_figures(record, ["logistic"]) == "logistic 90 %"
    with pytest.raises(ValueError, match="objectives: logistic → knn"):
        open_store("objectives=knn")

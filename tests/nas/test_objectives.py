"""An objective's earlier name is understood, and a study that was begun with it goes on under either."""
import pytest

from core import cli
from core.identity import identity
from nas import report, search
from nas.ledger import Ledger
from nas.settings import objectives

WORDS = ["study=s", "data=digits", "epochs=1"]


def book(*said: str, anew: bool = False) -> Ledger:
    words = cli.compose(search.TOOL, [*WORDS, *said])
    search.check(words)
    return search.ledger(words, anew)


def test_linear_is_logistic():
    assert objectives("linear,macs") == objectives("logistic,macs") == ["logistic", "macs"]
    words = cli.compose(search.TOOL, [*WORDS, "objectives='linear,macs'"])
    assert search.plan(words).objectives == {"logistic": "maximize", "macs": "minimize"}
    with pytest.raises(ValueError, match="each once"):
        search.check(cli.compose(search.TOOL, [*WORDS, "objectives='linear,logistic'"]))


@pytest.mark.parametrize("name", ["linear", "logistic"])
def test_a_study_begun_as_linear_goes_on(tmp_path, monkeypatch, name):
    """Its settings and its trials' figures are those that an earlier version wrote."""
    monkeypatch.chdir(tmp_path)
    words = cli.compose(search.TOOL, [*WORDS, "objectives=linear"])
    before = Ledger("s", "auto", {"linear": "maximize"}, identity(words))
    assert before.study.user_attrs["settings"]["objectives"] == "linear"
    trial = before.study.ask()
    trial.set_user_attr("rungs", [{"epochs": 1.0, "values": [90.0], "figures": {"linear": 90.0}}])
    after = book(f"objectives={name}")
    assert after.settings["objectives"] == "logistic"
    [entry] = after.entries()
    assert entry.rungs == [{"epochs": 1.0, "values": [90.0], "figures": {"logistic": 90.0}}]
    assert report.told(entry, ["logistic"]) == "logistic 90 %"
    with pytest.raises(ValueError, match="objectives: logistic → knn"):
        book("objectives=knn")

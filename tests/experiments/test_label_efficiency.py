"""The label-efficiency table: rates are chosen on validation, runs that are done are taken as they are."""
import json

import pytest

from experiments import label_efficiency
from experiments.label_efficiency import ARMS, CHOSEN_AT, FROZEN, RATES, STEPS, chart, measured, table


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Finished runs: on validation the second rate is best, on test the first; test accuracy says which run it is."""
    monkeypatch.setattr(label_efficiency, "tool", lambda *words: pytest.fail(f"ran {words}"))

    def write(name: str, rows: list[dict]) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"rows": rows}))

    scores = {"knn": 88.0, "linear": 89.0, "five_labels": 71.0}
    for seed in (0, 1):
        (tmp_path / f"pretrain-{seed}").mkdir()
        (tmp_path / f"pretrain-{seed}" / "test.json").write_text(json.dumps({"pretrained": scores}))
        for share in STEPS:
            for arm in ARMS.values():
                for rate in RATES if (share, seed) == (CHOSEN_AT, 0) else RATES[1:2]:
                    i = RATES.index(rate)
                    row = {"validation": 90 - abs(i - 1), "accuracy": 80 + seed - i + 10 * (arm == "pretrained")}
                    write(f"{arm}-{share:g}-{rate:g}-{seed}", [row])
        frozen = [{"source": "encoder", "labels": f"{100 * share:g} %", "accuracy": 70 + seed} for share in STEPS]
        write(f"frozen-{seed}", [*frozen, {"source": "untrained", "labels": "1 %", "accuracy": 5}])
    return tmp_path


def test_means_are_over_seeds_of_the_rate_that_validation_chose(runs):
    found = measured(runs, [0, 1])
    assert {arm: rate["chosen"] for arm, rate in found["rates"].items()} == dict.fromkeys(ARMS, RATES[1])
    accuracy = found["accuracy"]
    assert accuracy["from scratch"]["0.1"]["each"] == [79, 80]
    assert accuracy["pretrained, fine-tuned"]["1"]["mean"] == 89.5
    assert found["pretraining"]["knn"] == {"mean": 88, "std": 0}
    assert accuracy[FROZEN]["0.01"] == {"mean": 70.5, "std": 0.71, "each": [70, 71]}


def test_the_table_and_the_chart_show_them(runs, tmp_path):
    machine = {"cpu": "some", "cores": 2, "gpu": None, "threads": 1}
    document = {"seeds": [0, 1], "command": "c", "hardware": machine, "versions": {"torch": "2"}, "code": "abc"}
    document |= measured(runs, [0, 1])
    lines = table(document).splitlines()
    assert any(line.startswith("| 10 % | 5,500 | 89.5 ± 0.7 | 70.5 ± 0.7 | 79.5 ± 0.7 |") for line in lines)
    chart(document, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5_000

"""Costs of deployment in a study: measured once a trial, rejected with a reason, again at the end; a stand-in trains."""
from dataclasses import replace

import pytest
from optuna.trial import TrialState

import deploy.export
from core import cli
from core.errors import NotQuantizable
from nas import checks, device_report, export
from nas.deployment_costs import DeploymentCosts, missing
from nas.remeasure import DeviceFigures, DeviceRow, until_measured, with_device
from nas.results import broken_limits, complete, front_of
from nas.scheduler import MAX_REJECTED_MEASURED, Worker
from nas.search_config import SearchConfig
from nas.settings import parse_limits, parse_objectives
from nas.study import TOOL
from tests.nas.test_scheduler import FakeEvaluator, config, in_memory, open_store  # noqa: F401

OBJECTIVES = {"knn": "maximize", "int8_latency": "minimize"}


class Deployed(FakeEvaluator):
    """Latency is 1 + the first coordinate, ms; where that is 3 there is no INT8 version."""

    def __init__(self):
        super().__init__()
        self.measured = []

    def deployment_costs(self, candidate, heartbeat):
        heartbeat()
        self.measured.append(candidate["hash"])
        first = candidate["point"][0]
        if first == 3:
            raise NotQuantizable("no INT8 version can be made: stand-in")
        return DeploymentCosts({"int8_latency": 1.0 + first, "int8_size": 0.5}, {"int8_latency": "by a stand-in"})


def study(trials=12, limits=None) -> tuple:
    settings = replace(config(trials, "random", limits=limits), objectives=OBJECTIVES)
    store, evaluator = open_store("one", OBJECTIVES), Deployed()
    Worker(store, settings, evaluator).run()
    return store, settings, evaluator


def test_measured_once_a_trial_and_kept_with_its_method(in_memory):  # noqa: F811
    store, _, evaluator = study()
    records = store.records()
    assert len(evaluator.measured) == len({*evaluator.measured}) == len(records), "at three rungs, once"
    for r in records:
        if r.rungs:
            assert r.costs["int8_latency"] == 1 + r.candidate["point"][0]
            assert r.rungs[-1].values[1] == r.costs["int8_latency"]
            assert r.methods == {"int8_latency": "by a stand-in"}


def test_what_has_no_int8_version_is_rejected_with_its_reason_and_the_study_goes_on(in_memory):  # noqa: F811
    store, settings, _ = study(20)
    rejected = [r for r in store.records() if r.candidate["point"][0] == 3]
    assert rejected
    assert {(r.state, r.rejected, r.reason) for r in rejected} == {
        (TrialState.PRUNED, True, "no INT8 version can be made: stand-in")}
    assert sum(bool(r.rungs) for r in store.records()) == settings.trials, "it does not count as one of the trials"


def test_a_limit_on_a_measured_cost_is_kept_before_training(in_memory):  # noqa: F811
    store, _, evaluator = study(12, {"int8_latency": 2.0})
    trained = {r.hash for r in store.records() if r.rungs}
    assert trained == {*evaluator.trained}
    assert {r.costs["int8_latency"] for r in store.records() if r.rungs} == {1.0, 2.0}
    over = [r for r in store.records() if r.rejected and r.candidate["point"][0] == 2]
    assert {r.reason for r in over} == {"int8_latency 3 > 2"}


def test_a_study_of_which_nothing_can_be_deployed_ends(in_memory):  # noqa: F811
    class Never(Deployed):
        def deployment_costs(self, candidate, heartbeat):
            raise NotQuantizable("never")

    store = open_store("one", OBJECTIVES)
    Worker(store, replace(config(trials=50, sampler="random"), objectives=OBJECTIVES), Never()).run()
    *rejected, last = store.records()
    assert len(rejected) == MAX_REJECTED_MEASURED
    assert last.reason.endswith("all rejected, the last one so: never")


def test_a_replicate_without_an_int8_version_fails_once(in_memory):  # noqa: F811
    class Later(Deployed):
        def advance(self, candidate, record, epochs, heartbeat):
            if record.replicate:
                raise NotQuantizable("outputs of its INT8 version are not finite")
            return super().advance(candidate, record, epochs, heartbeat)

    store = open_store("one", OBJECTIVES)
    Worker(store, replace(config(4, "random"), objectives=OBJECTIVES, verify=1), Later()).run()
    assert {r.state for r in store.replicates()} == {TrialState.FAIL}


def test_the_front_is_measured_until_all_on_it_keep_the_limits(in_memory):  # noqa: F811
    """Predictions are half of the truth; of those measured beyond the limit none stays, whoever follows is measured."""
    store, settings, _ = study(16)
    settings = replace(settings, limits={"int8_latency": 4.5})
    records, calls = store.records(), []

    def measure(record) -> DeviceRow:
        calls.append(record.number)
        return DeviceRow({"int8_latency": 2 * record.first_costs["int8_latency"]}, {"int8_latency": 1.0})

    found = until_measured(records, settings, DeviceFigures({}, {"cpu": "x", "gpu": None}, 1), measure)
    assert len(calls) == len({*calls})
    measured = with_device(records, DeviceFigures.from_json(found.json), settings)
    front = front_of(measured, settings)
    assert front
    for r in front:
        assert r.number in found.rows
        assert r.figures["int8_latency"] == r.rungs[-1].values[1] == 2 * r.first_costs["int8_latency"] <= 4.5
    allowed = [r for r in complete(records) if r.number in found.rows and 2 * r.first_costs["int8_latency"] <= 4.5]
    assert max(allowed, key=lambda r: r.figures["knn"]).number in {r.number for r in front}
    left_out = [r for r in measured if r.remeasured.costs and 2 * r.first_costs["int8_latency"] > 4.5]
    text = "\n".join(device_report.lines(measured, settings, found, predicts=True))
    assert all(f"trial {r.number} is left out of the front: int8_latency 6 ms > 4.5" in text for r in left_out)
    assert "predictions of the search were off by 50 % at most" in text
    assert "Latency of trials" in "\n".join(device_report.lines(records, settings, None, predicts=True))


def test_one_that_could_not_be_measured_is_not_on_the_front(in_memory):  # noqa: F811
    store, settings, _ = study(6)
    found = until_measured(store.records(), settings, DeviceFigures({}, {}, 1), lambda r: DeviceRow(failure="no ONNX"))
    assert front_of(with_device(store.records(), found, settings), settings) == []


def test_limits_are_the_most_of_costs_and_the_least_of_accuracy(in_memory):  # noqa: F811
    store, settings, _ = study(4)
    record = next(r for r in complete(store.records()))
    latency, knn = record.figures["int8_latency"], record.figures["knn"]
    assert broken_limits(record, replace(settings, limits={"int8_latency": latency, "knn": knn})) == []
    assert len(broken_limits(record, replace(settings, limits={"int8_latency": latency - 0.5}))) == 1
    assert len(broken_limits(record, replace(settings, limits={"knn": knn + 0.5}))) == 1


def test_only_what_objectives_and_limits_name_is_measured():
    assert missing({"knn", "macs", "latency", "size"}, {}) == set()
    assert missing({"int8_accuracy"}, {}) == {"int8_size"}, "there must be an INT8 version before anything is trained"
    assert missing({"int8_accuracy", "int8_latency"}, {"int8_latency": 1.0, "int8_size": 1.0}) == set()
    assert SearchConfig(1, config().halving, OBJECTIVES, {"size": 1.0}).measured == {"knn", "int8_latency", "size"}


@pytest.mark.parametrize(("options", "message"), [
    (["objectives=int8_latency"], "with one that training shows"),
    (["limit='int8_accuracy:x'"], "written name:number"),
    (["limit='knn:80'"], "there are"),
    (["latency_profile=none.json"], "there is no such file; write one with python -m nas.profile"),
])  # fmt: skip
def test_mistakes_are_one_line(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        checks.check(cli.compose(TOOL, ["study=s", "data=digits", *options]))
    assert "\n" not in str(error.value)


def test_an_export_takes_the_images_of_the_study():
    kept = {"data.name": "mnist", "data.labels": "none", "data.max_corrupt": None, "epochs": 3.0}
    settings = cli.compose(export.TOOL, ["study=s", "calibration=64"])
    changes = export.images_of_study(settings, kept)
    derived = cli.derive(deploy.export.TOOL, settings, export.OWN, changes=changes)
    assert (derived.data.name, derived.data.labels, derived.calibration, derived.smaller) == ("mnist", "none", 64, True)
    with pytest.raises(ValueError, match="was made on data=mnist; leave data out"):
        export.images_of_study(cli.compose(export.TOOL, ["study=s", "data=digits"]), kept)
    with pytest.raises(ValueError, match="leave it out"):
        export.check(cli.compose(export.TOOL, ["study=s", "encoder=small"]))


def test_accuracy_is_knn():
    assert parse_objectives("accuracy,int8_latency") == ["knn", "int8_latency"]
    assert parse_limits("int8_accuracy:80,size:1.5") == {"int8_accuracy": 80.0, "size": 1.5}

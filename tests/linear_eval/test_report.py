"""The report says what results.json says, shows names as they are, and is the same bytes for the same input."""
import base64
import copy
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from core.page import markdown_block
from linear_eval import metrics, pictures, tables
from linear_eval.metrics import figures
from linear_eval.report import summary, write
from linear_eval.report_data import Heatmaps, Neighbors, ReportData
from linear_eval.results import CurvePoint, DataFacts, EncoderFacts, Evaluation, LabelCurve, ResultRow
from linear_eval.rows import baselines_ahead, best_on_validation
from linear_eval.settings import MAPS
from linear_eval.tables import report_table, suite_table, text_table

ODD = ["<b>fish & chips</b>", "price | $x_1$ *net*", '"><script>alert(1)</script>']
ALL, SOME = 2_000, 200


def row(source: str, method: str, accuracy: float, validation: float | None, labels: float = 1.0, **more) -> ResultRow:
    made = ResultRow(
        source=source, method=method, labels=labels, train_images=ALL if labels == 1 else SOME, accuracy=accuracy,
        interval=[accuracy - 1.5, accuracy + 1.5], std=None, draws=1, top5=None, balanced_accuracy=accuracy - 0.25,
        macro_f1=accuracy - 0.5, ece=3.14, validation=validation, selected_on="500 validation images",
        chosen={"k": 20, "T": 0.07}, note="", seconds=1.5,
    )  # fmt: skip
    return replace(made, **more)


def results(names: list[str] = ODD, rows: list[ResultRow] | None = None, curve: bool = True) -> Evaluation:
    return Evaluation(
        protocol="v1", protocol_changes={"linear.epochs": 5}, seed=0, seconds=90.0, notes=["two files are gone"],
        encoder=EncoderFacts("resnet18d", "runs/x/encoder.safetensors", 256, 1_234_567, image_size=28, channels=1),
        data=DataFacts("odd_things", names, ALL, validation=500, test=1_000),
        command="python -m linear_eval.evaluate --data 'a<b'", code="abc",
        hardware={"cpu": "A CPU", "cores": 2, "gpu": None, "threads": 2}, versions={"torch": "2.15"},
        rows=rows if rows is not None else [
            row("raw pixels", "knn", 84.3, 84.0),
            row("encoder", "finetune", 91.2, 90.0, selected_on="nothing: fixed", chosen={"lr": 0.001}),
            row("encoder", "knn", 83.1, 88.0),
            row("encoder", "linear", 89.1, 92.0),  # best on validation, not on test
            row("HOG", "svm", 92.6, 91.0, ece=None, chosen={"C": [1.0, 10.0], "kernel": "rbf"}),
            row("encoder", "logistic", 99.0, 99.0, 0.1, std=0.61, draws=3),
            row("untrained", "linear", 70.4, 71.0),
        ],
        curve=[LabelCurve(source, [CurvePoint(k, 50.0 + k, 1.0, draws=5) for k in (1, 5, 20)])
               for source in ("encoder", "raw pixels")] if curve else [],
    )  # fmt: skip


def report_data(classes: int, images: int = 60, channels: int = 1) -> ReportData:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    scores = rng.random((images, classes)) + np.eye(classes)[labels] * 0.4
    shown = rng.integers(0, 256, (images, channels, 12, 12), dtype=np.uint8)
    return ReportData(
        labels=labels, scores=scores / scores.sum(1, keepdims=True), images=shown.__getitem__,
        neighbors=Neighbors(np.arange(3), rng.integers(images, size=(3, 4)), shown.__getitem__, labels),
        features=rng.normal(size=(images, 6)), heatmaps=Heatmaps(shown[:5], rng.random((5, 12, 12)), labels[:5], labels[1:6]),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def flat(monkeypatch):
    """UMAP compiles for some ten seconds: one long test is enough of it."""
    monkeypatch.setattr(pictures, "plane", lambda x, seed, names: dict.fromkeys(("PCA", "t-SNE", "UMAP"), x[:, :2]))


class Page(HTMLParser):
    """The words of each table's rows, all pictures, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.images, self.open, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_detailed_row_is_chosen_on_validation():
    rows = results().rows
    assert rows[best_on_validation(rows)].method == "linear"  # fine-tuning is better on test, 10 % better on validation
    rows = [replace(one, accuracy=100 - one.accuracy) for one in rows]
    assert rows[best_on_validation(rows)].method == "linear"
    assert best_on_validation([row("from scratch", "finetune", 80.0, None)]) == 0
    assert best_on_validation([row("raw pixels", "knn", 80.0, 99.0), row("encoder", "finetune", 80.0, None, 0.1)]) == 1


def test_it_names_what_is_ahead_of_the_encoder():
    """By the same method, or, where the encoder has none such, of its best on validation."""
    assert baselines_ahead(results().rows) == (
        "Ahead of the encoder: HOG by SVM (92.6, it 89.1 by linear probe); raw pixels by kNN (84.3, it 83.1)."
    )
    behind = [row("encoder", "knn", 90.0, 90.0), row("untrained", "knn", 80.0, 95.0)]
    assert baselines_ahead(behind) == "Nothing it was compared with is ahead of the encoder."
    few = [row("encoder", "knn", 60.0, 60.0, 0.01), row("PCA", "knn", 61.0, 61.0, 0.01)]
    assert baselines_ahead(few) == "Ahead of the encoder: PCA by kNN with 1 % of the labels (61.0, it 60.0)."
    assert baselines_ahead([row("encoder", "knn", 90.0, 90.0)]) == ""
    many = [row("encoder", "knn", 60.0, 60.0)] + [row(f"rival {i}", "knn", 60.0 + i, 61.0) for i in range(-1, 8)]
    assert baselines_ahead(many).startswith("Ahead of the encoder, in 7 of 9 comparisons: rival 7 by kNN (67.0, it 60.0)")
    assert baselines_ahead(many).count("rival") == 5


def test_the_terminals_table_is_aligned_and_fits():
    long = results()
    chosen = {"rate": 0.05, "features": "pooled+max", "epochs": 20, "batch_size": 1024, "momentum": 0.9}
    long.rows[3] = replace(long.rows[3], chosen=chosen)
    text = text_table(long)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    head = next(i for i, line in enumerate(lines) if line.startswith("source"))
    body = lines[head + 2 : head + 9]
    at = lines[head].index("accuracy") + len("accuracy")
    assert [line[:at].split()[-1] for line in body] == ["83.1", "89.1", "91.2", "70.4", "92.6", "84.3", "0.6"]  # ± 0.6
    start = lines[head].index("selected on")
    assert {line[start - 2 : start] for line in body} == {"  "}
    assert sum("500 validation images" in line for line in body) == 6
    assert "Ahead of the encoder" in text


def test_every_figure_is_in_both_pages(tmp_path):
    write(tmp_path, results(), None)
    markdown, page = (tmp_path / "report.md").read_text(), Page((tmp_path / "report.html").read_text())
    assert page.open == []
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("| ")]
    assert [row for row in lines if row[0] == "resnet18d"] == [row for row in page.rows if row[0] == "resnet18d"]
    hog = next(row for row in page.rows if row[0] == "HOG")
    assert hog == ["HOG", "SVM", "100 %", "92.6", "91.1 … 94.1", "92.3", "92.1", "–", "91.0", "500 validation images",
                   "C 1/10, kernel rbf", ""]  # fmt: skip
    drawn = next(row for row in page.rows if row[1] == "logistic regression")
    assert drawn[3] == "99.0 ± 0.6"
    assert drawn[-1] == "mean ± std of 3 draws"
    assert page.rows[0][5] == "balanced"  # top-5, which no row has, is no column
    for words in (results().command, "A CPU, 2 cores, 2 threads", "torch 2.15", "two files are gone",
                  "changed: linear.epochs 5", "Ahead of the encoder"):  # fmt: skip
        assert words in markdown


def test_the_summary_is_three_numbers():
    """Of the row that is best on validation; the best baseline by any method is the strictest rival."""
    tiles = {tile.title: (tile.value, tile.unit) for tile in summary(results().rows)}
    assert tiles == {"test score, encoder": ("89.1", "%"), "ahead of it untrained": ("+18.7", "points"),
                     "ahead of the best baseline": ("−3.5", "points")}  # fmt: skip
    assert summary([row("HOG", "svm", 90.0, 90.0)]) == []


def test_names_are_shown_and_never_run(tmp_path):
    write(tmp_path, results(), report_data(3))
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags[page.tags.index("section") :]  # tiles have <b>, names have not
    assert [row[0] for row in page.rows if row[0] in ODD][:3] == ODD
    markdown = (tmp_path / "report.md").read_text()
    assert "<b>" not in markdown
    assert "<script>" not in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if "chips" in line and "taken" not in line}
    assert widths <= {6, 5}  # five cells by class, four of a pair: a name's own bar opens none


@pytest.mark.parametrize(("classes", "channels"), [(2, 3), (3, 1), (100, 3)])
def test_everything_is_drawn_once_and_stands_in_both_pages(tmp_path, classes, channels):
    names = [f"class {i}" for i in range(classes)]
    written = write(tmp_path, results(names), report_data(classes, channels=channels))
    charts = {"accuracy.svg", "curve.svg", "confusion.svg", "reliability.svg", "maps.svg"}
    figures_ = charts | {"confused.png", "neighbours.png", "gradcam.png"}
    assert {path.name for path in written} == {"report.md", "report.html", "figures.json"} | figures_
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    inside = [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in page.images]
    assert inside == [path.read_bytes() for path in written if path.suffix == ".png"]
    assert all(path.read_text().strip() in text for path in written if path.suffix == ".svg")
    assert len(text) < 1.5e6
    numbers = json.loads((tmp_path / "figures.json").read_text())
    assert numbers["confusion"] == metrics.confusion(report_data(classes).scores, report_data(classes).labels).tolist()
    assert {len(points) for points in numbers["map"].values()} == {len(numbers["labels"])}
    assert all(Image.open(io.BytesIO(png)).format == "PNG" for png in inside)
    assert not re.search(r"(src|href)=\"(?!data:|#)|url\((?!#)|@import", text)  # one file that needs nothing else
    assert set(re.findall(r"\]\((\w+\.\w+)\)", (tmp_path / "report.md").read_text())) == figures_
    assert ("details" in page.tags) == (classes == 100)


def test_a_part_that_is_none_has_no_section(tmp_path):
    full = report_data(3)
    part = ReportData(labels=full.labels, scores=full.scores, probabilities=False)
    write(tmp_path, results(curve=False), part)
    headings = re.findall(r"^## (.*)$", (tmp_path / "report.md").read_text(), re.M)
    assert headings == ["Accuracy", "Confusion", "By class", "Most confused", "How it was measured"]
    write(tmp_path / "none", results(rows=[row("encoder", "knn", 90.0, 90.0)], curve=False), None)
    headings = re.findall(r"^## (.*)$", (tmp_path / "none" / "report.md").read_text(), re.M)
    assert headings == ["Accuracy", "How it was measured"]


@pytest.mark.long
def test_the_same_input_is_the_same_bytes(tmp_path):
    import matplotlib

    first = [path.read_bytes() for path in write(tmp_path / "a", results(), report_data(3))]
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50}):  # whatever a process has set
        assert [path.read_bytes() for path in write(tmp_path / "b", copy.deepcopy(results()), report_data(3))] == first
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.long
def test_maps_are_the_same_each_time(monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    x = rng.normal(size=(300, 20)) + 4 * np.eye(20)[labels]
    planes, again = (pictures.plane(x.astype(np.float32), 0, MAPS) for _ in range(2))
    assert pictures.maps(planes, labels, ODD) == pictures.maps(again, labels, ODD)
    for points in planes.values():
        assert points.shape == (300, 2)
        assert np.isfinite(points).all()
        centres = np.stack([points[labels == i].mean(0) for i in range(3)])
        nearest = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        assert (nearest == labels).mean() > 0.9  # classes 4 standard deviations apart stay apart


def test_few_or_flat_features_have_no_map(tmp_path):
    full, one = report_data(3), results(rows=[row("encoder", "knn", 90.0, 90.0)], curve=False)
    for features in (full.features[:9], full.features[:, :1]):
        write(tmp_path, one, ReportData(labels=full.labels[: len(features)], features=features))
        assert "Map of the features" not in (tmp_path / "report.md").read_text()


def test_a_frame_says_whether_a_neighbour_is_of_the_class():
    """Read back from the picture: blue for right, orange for wrong, and the query's is neither."""
    image = np.zeros((1, 1, 8, 8), np.uint8)
    for theirs, expected, absent in ((0, pictures.RIGHT, pictures.WRONG), (1, pictures.WRONG, pictures.RIGHT)):
        rows = pictures.NeighborRows(image, np.array([0]), image[None], np.array([[theirs]]))
        png = pictures.neighbors(rows, ["a", "b"])
        pixels = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
        assert (pixels == list(bytes.fromhex(expected[1:]))).all(-1).any()
        assert not (pixels == list(bytes.fromhex(absent[1:]))).all(-1).any()


def test_a_suite_is_a_row_a_data_set():
    rows = [row("encoder", "knn", 97.7, 97.0), row("encoder", "knn", 50.0, 50.0, 0.1), row("untrained", "knn", 85.4, 85.0)]
    one, other = results(), results(rows=rows)
    other = replace(other, data=replace(other.data, name="digits"))
    lines = [line.strip("| ").split(" | ") for line in suite_table([one, other]).splitlines() if line.startswith("|")]
    assert lines[0][:2] == ["data", "kNN"]
    table = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert table["odd_things"]["kNN"] == "83.1"
    assert table["odd_things"]["fine-tuning"] == "91.2"
    assert table["odd_things"]["raw pixels: kNN"] == "84.3"
    assert table["odd_things"]["untrained: linear probe"] == "70.4"
    assert table["digits"]["kNN"] == "97.7"
    assert table["digits"]["untrained: kNN"] == "85.4"
    assert table["digits"]["linear probe"] == "–"


def test_figures_of_scores_fit_into_a_row():
    """What linear_eval.metrics gives is what a row is made of."""
    e = report_data(7)
    measured = replace(row("encoder", "knn", 0.0, 1.0), **figures(e.scores, e.labels, True))
    found = results([str(i) for i in range(7)], [measured])
    assert f"{measured.top5:.1f}" in markdown_block(report_table(found))
    assert tables.table(found)[0][3] == f"{np.mean(e.scores.argmax(1) == e.labels) * 100:.1f}"


def test_the_file_keeps_its_names():
    """results.json is read by others: its keys and their order are those of the first edition."""
    content = results().to_json()
    assert list(content) == ["protocol", "protocol_changes", "encoder", "data", "seed", "command", "code", "hardware",
                             "versions", "seconds", "notes", "rows", "curve"]  # fmt: skip
    assert list(content["rows"][0]) == [
        "source", "method", "labels", "train_images", "accuracy", "interval", "top5", "balanced_accuracy", "macro_f1", "ece",
        "std", "draws", "validation", "selected_on", "chosen", "note", "seconds",
    ]  # fmt: skip
    assert [row["labels"] for row in content["rows"][4:6]] == ["100 %", "10 %"]
    assert content["curve"][1]["points"][0] == {"per_class": 1, "mean": 51.0, "std": 1.0, "draws": 5}
    assert content["data"]["classes"] == ODD

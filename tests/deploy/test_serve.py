"""`python -m deploy.serve` as its users meet it: by HTTP, from a browser, under load, and attacked."""
import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from commands import ROOT, real
from PIL import Image

from core import cli
from deploy import export_module, gallery_files, runtime, serve
from deploy.batching import Batcher
from deploy.gallery import read_gallery
from deploy.model import Model, Outputs, RequestError
from vision import artifact, datasets, encoders
from vision.augment import Augmentation
from vision.splits import Dataset

COUNT = 200  # images of the gallery


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier of digits with random weights as model.onnx, an encoder's, and a gallery with a broken file in it."""
    out = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    data = datasets.load("digits", seed=0)
    encoder = encoders.create("tiny", 1, 8).eval()
    recipe, head = Augmentation(8, data.mean, data.std), torch.nn.Linear(encoder.dim, 10)
    (out / "classifier.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}, head, tuple(data.classes)))
    (out / "encoder.safetensors").write_bytes(artifact.dumps(encoder, recipe, {}))
    runtime.write_onnx(export_module.load(out / "classifier.safetensors"), out / "model.onnx")
    runtime.write_onnx(export_module.load(out / "encoder.safetensors", preprocess=True), out / "encoder.onnx")
    gallery_files.write_gallery(data, out / "gallery", COUNT)
    (out / "gallery" / "0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return out


class Service:
    """One that runs, on a port of its own."""

    def __init__(self, folder: Path, *arguments: str):
        self.folder, environment = folder, os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = real("--port=0", "--threads=1", *arguments, module="deploy.serve", cwd=folder, env=environment)
        line = self.process.stdout.readline()
        assert "http://127.0.0.1:" in line, self.process.communicate()[1]
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def post(self, path: str, body: bytes = b"", **how) -> httpx.Response:
        return httpx.post(self.url + path, content=body, timeout=30, **how)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def memory(self) -> float:
        """Resident, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture(scope="module")
def service(folder):
    started = Service(folder, "--model=model.onnx", "--gallery=gallery", "--megapixels=1", "--megabytes=1")
    yield started
    started.end()


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits", seed=0)


def test_classes_are_the_models(service, folder, digits):
    module = export_module.load(folder / "classifier.safetensors")
    for i in range(5):
        with torch.no_grad():
            expected = module(torch.from_numpy(module.preprocess(digits.test, torch.tensor([i]))))[0].softmax(1)[0]
        response = service.post("/classify", png(digits.test.images[i, 0])).json()["classes"]
        assert len(response) == 5
        assert response[0]["class"] == digits.classes[int(expected.argmax())]
        assert [row["probability"] for row in response] == pytest.approx(expected.topk(5).values.tolist(), abs=1e-4)


def test_neighbours_are_the_nearest_by_cosine(service, folder, digits):
    """Against scikit-learn, on features by torch."""
    from sklearn.neighbors import NearestNeighbors

    encoder, _ = artifact.load(folder / "encoder.safetensors")
    module = export_module.load(folder / "classifier.safetensors")
    files = sorted(p for p in (folder / "gallery").rglob("*.png") if p.stem != "broken")
    rows = torch.tensor([int(p.stem) for p in files])
    with torch.no_grad():
        known, query = (encoder(torch.from_numpy(module.preprocess(split, i))) for split, i in
                        ((digits.train, rows), (digits.test, torch.tensor([3]))))
    distances, nearest = NearestNeighbors(n_neighbors=7, metric="cosine").fit(known).kneighbors(query)
    found = service.post("/neighbours?count=7", png(digits.test.images[3, 0])).json()["neighbours"]
    assert [row["similarity"] for row in found] == pytest.approx((1 - distances[0]).tolist(), abs=1e-4)
    assert {row["file"] for row in found} == {files[i].name for i in nearest[0]}
    for row in found:
        assert row["class"] == next(p.parent.name for p in files if p.name == row["file"])
    small = Image.open(io.BytesIO(service.get(found[0]["image"]).content))
    np.testing.assert_array_equal(np.asarray(small.convert("L")), digits.train.images[int(found[0]["file"][:-4]), 0].numpy())


def test_an_image_of_the_gallery_is_its_own_neighbour(service, folder):
    path = next((folder / "gallery" / "7").glob("*.png"))
    first = service.post("/predict?count=1", path.read_bytes()).json()["neighbours"][0]
    assert first["similarity"] == pytest.approx(1, abs=1e-5)
    assert (first["class"], first["file"]) == ("7", path.name)


def test_a_form_is_as_good_as_a_body(service, digits):
    body = png(digits.test.images[0, 0])
    by_form = httpx.post(f"{service.url}/classify", files={"anything": ("../../x.png", body, "image/png")})
    assert by_form.json() == service.post("/classify", body).json()


def huge(width: int, height: int) -> bytes:
    """A PNG whose head promises so many pixels, and whose body is small: a decompression bomb."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


IMAGE = png(np.arange(64).reshape(8, 8))
HOSTILE = {
    "nothing": (b"", 400, "the body is empty"),
    "text": (b"<svg onload=alert(1)>", 415, "not an image"),
    "a script": (b"#!/bin/sh\nrm -rf /\n" * 100, 415, "not an image"),
    "half of one": (IMAGE[: len(IMAGE) // 2], 400, "cannot be used"),
    "a head alone": (b"\x89PNG\r\n\x1a\n", 400, "cannot be used"),
    "a bomb": (huge(50_000, 50_000), 413, "50000 by 50000 pixels"),
    "a lying head": (huge(900, 900), 400, "cannot be used"),
    "zeros": (bytes(1000), 415, "not an image"),
    "too many bytes": (IMAGE + bytes(1_100_000), 413, "more than 1 MB"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("path", ["/classify", "/neighbours", "/predict"])
def test_a_bad_upload_gets_its_reason(service, kind, path):
    body, status, message = HOSTILE[kind]
    response = service.post(path, body)
    assert response.status_code == status, response.text
    assert message in response.json()["error"]
    assert service.post("/classify", IMAGE).status_code == 200


@pytest.mark.parametrize(("method", "path", "status", "message"), [
    ("GET", "/nowhere", 404, "there is no /nowhere"),
    ("GET", "/classify", 405, "/classify does not take GET"),
    ("GET", "/gallery/99999", 404, "the gallery has no image 99999"),
    ("GET", "/gallery/-1", 404, "the gallery has no image -1"),
    ("GET", "/gallery/..%2F..%2Fetc%2Fpasswd", 404, "there is no /gallery/"),
    ("GET", "/gallery/x", 422, "number: "),
    ("POST", "/neighbours?count=0", 422, "count=0: must be from 1 to 100"),
    ("POST", "/neighbours?count=many", 422, "count: "),
])
def test_a_bad_request_gets_its_reason(service, method, path, status, message):
    response = httpx.request(method, service.url + path, content=IMAGE if method == "POST" else None)
    assert response.status_code == status
    assert message in response.json()["error"]


@pytest.mark.parametrize("body", [
    b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\ntext\r\n--x--\r\n", b"no form at all", b"--x\r\n", b"--x--\r\n",
    b"",
])
def test_a_bad_form_gets_its_reason(service, body):
    response = service.post("/classify", body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert response.status_code == 400
    assert response.json()["error"]


def test_a_body_without_a_length_is_cut_off(service):
    def endless():
        while True:
            yield bytes(100_000)

    try:
        response = httpx.post(f"{service.url}/classify", content=endless(), timeout=30)
        assert response.status_code == 413
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # it hung up while we were still sending
    assert service.get("/health").json()["status"] == "ok"


def test_another_sites_name_is_refused(service):
    assert httpx.get(f"{service.url}/health", headers={"host": "evil.example"}).status_code == 400


def test_metrics_count_what_happened_and_hold_all_that_the_dashboard_queries(service):
    def counted(status: str) -> float:
        found = re.findall(rf'nolabel_requests_total{{path="/classify",status="{status}"}} (\S+)', service.get("/metrics").text)
        return float(found[0]) if found else 0.0

    good, bad = counted("200"), counted("415")
    for _ in range(3):
        service.post("/classify", IMAGE)
    service.post("/classify", b"x" * 100)
    assert (counted("200"), counted("415")) == (good + 3, bad + 1)
    text = service.get("/metrics").text
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    queried = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in re.findall(r"\b(?:nolabel|process)_\w+", target["expr"])}
    assert len(queried) >= 7
    for name in queried:
        assert re.search(rf"^{name}[ {{]", text, re.M), name


def test_it_never_loads_torch(service):
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps


def test_an_encoder_has_neighbours_and_no_classes(folder, digits):
    started = Service(folder, "--model=encoder.onnx", "--gallery=gallery")
    try:
        body = png(digits.test.images[0, 0])
        assert list(started.post("/predict", body).json()) == ["neighbours"]
        response = started.post("/classify", body)
        assert response.status_code == 404
        assert "no classes" in response.json()["error"]
    finally:
        assert started.end() in (0, -signal.SIGTERM)  # uvicorn ends by the signal that ended it


def test_features_of_the_gallery_are_kept_until_it_changes(folder, tmp_path):
    root, kept = tmp_path / "gallery", tmp_path / "kept"
    shutil.copytree(folder / "gallery", root)
    model = Model(folder / "model.onnx")
    first, skipped = read_gallery(root, model, 1, kept)
    assert len(first) == COUNT
    assert [Path(path).name for path in skipped] == ["broken.png"]

    def must_not(images):
        raise AssertionError("computed again")

    model.session.run, run = must_not, model.session.run
    again, skipped_again = read_gallery(root, model, 1, kept)
    np.testing.assert_array_equal(again.index.reconstruct_n(0, COUNT), first.index.reconstruct_n(0, COUNT))
    assert (again.files, skipped_again) == (first.files, skipped)
    model.session.run = run
    (root / "0" / "broken.png").write_bytes(IMAGE)
    assert len(read_gallery(root, model, 1, kept)[0]) == COUNT + 1


# ---------------------------------------------------------------------------------------------------------------- batching


def test_what_waits_together_is_one_batch_and_each_gets_its_own_outputs():
    sizes = []

    def model(images: np.ndarray) -> Outputs:
        sizes.append(len(images))
        time.sleep(0.02)
        return Outputs(None, images.reshape(len(images), -1) * 2)

    async def predict() -> list[Outputs]:
        batcher = Batcher(model, max_batch=8, max_waiting=100)
        task = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*(batcher.predict(np.full((1, 1, 1), i)) for i in range(40)))
        task.cancel()
        return found

    assert [int(found.features[0]) for found in asyncio.run(predict())] == [2 * i for i in range(40)]
    assert sum(sizes) == 40
    assert max(sizes) == 8
    assert len(sizes) <= 6


def test_too_many_are_refused_and_a_failure_is_of_its_batch_alone():
    def model(images: np.ndarray) -> Outputs:
        if images.min() < 0:
            raise RuntimeError("no")
        return Outputs(None, images.reshape(len(images), -1))

    async def predict():
        batcher = Batcher(model, max_batch=1, max_waiting=3)
        waiting = [asyncio.create_task(batcher.predict(np.full((1, 1, 1), value))) for value in (1, -1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="3 images wait already") as refused:
            await batcher.predict(np.zeros((1, 1, 1)))
        assert refused.value.status == 429
        task = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*waiting, return_exceptions=True)
        task.cancel()
        return found

    first, second, third = asyncio.run(predict())
    assert (first.features[0], third.features[0]) == (1, 2)
    assert isinstance(second, RuntimeError)


# -------------------------------------------------------------------------------------------------------------------- load


def loaded(service: Service, requests: int, parallel: int = 16) -> dict:
    """So many requests, every hundredth of them bad.  → {"good": {status: count}, "bad": …, "memory": [MB]}"""
    kinds, found = list(HOSTILE.values()), {"good": {}, "bad": {}, "memory": []}

    async def one(client: httpx.AsyncClient, i: int) -> None:
        bad = i % 100 == 50
        body, status, _ = kinds[i // 100 % len(kinds)] if bad else (IMAGE, 200, "")
        response = await client.post(("/classify", "/neighbours", "/predict")[i % 3], content=body)
        assert response.status_code == status
        assert ("error" in response.json()) == bad
        counts = found["bad" if bad else "good"]
        counts[response.status_code] = counts.get(response.status_code, 0) + 1

    async def worker(client: httpx.AsyncClient, numbers) -> None:
        for i in numbers:
            await one(client, i)
            if i % 500 == 0:
                found["memory"].append(service.memory())

    async def all_of_them() -> None:
        numbers = iter(range(requests))
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            await asyncio.gather(*(worker(client, numbers) for _ in range(parallel)))

    asyncio.run(all_of_them())
    return found


@pytest.mark.long
def test_under_load_good_input_is_classified_and_bad_input_refused(service):
    found = loaded(service, 1_000)
    assert found["good"] == {200: 990}
    assert sum(found["bad"].values()) == 10
    assert set(found["bad"]) == {400, 413, 415}


@pytest.mark.long
def test_ten_thousand_requests_leave_memory_flat(service):
    loaded(service, 1_000)
    found = loaded(service, 10_000)
    assert found["good"] == {200: 9_900}
    assert sum(found["bad"].values()) == 100
    half = len(found["memory"]) // 2
    assert np.mean(found["memory"][half:]) - np.mean(found["memory"][:half]) < 5  # MB


# ----------------------------------------------------------------------------------------------------------------- browser


def test_a_chosen_image_shows_its_classes_and_neighbours(service, browser, folder, digits):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    chosen = folder / "chosen.png"
    chosen.write_bytes(png(digits.test.images[0, 0]))
    expected = service.post("/predict", chosen.read_bytes()).json()
    browser.get(service.url)
    browser.find_element(By.ID, "file").send_keys(str(chosen))
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#neighbours figure"))
    rows = [row.text.split("\n") for row in browser.find_elements(By.CSS_SELECTOR, ".class")]
    assert rows == [[row["class"], f"{100 * row['probability']:.1f} %"] for row in expected["classes"]]
    images = browser.find_elements(By.CSS_SELECTOR, "#neighbours img")
    assert [image.get_attribute("src") for image in images] == [service.url + row["image"] for row in expected["neighbours"]]
    WebDriverWait(browser, 20).until(lambda b: all(image.get_property("naturalWidth") == 8 for image in images))
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"
                and "favicon" not in line["message"]]  # no script or image was stopped by the page's policy


def test_a_dropped_file_that_is_no_image_says_why(service, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(service.url)
    browser.execute_script("""
        const data = new DataTransfer()
        data.items.add(new File(['no image'], 'x.png', {type: 'image/png'}))
        document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))
    """)
    WebDriverWait(browser, 20).until(lambda b: b.find_element(By.ID, "error").text)
    assert "not an image" in browser.find_element(By.ID, "error").text
    assert not browser.find_elements(By.CSS_SELECTOR, ".class")


# ---------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "model=None: give a file of deploy.export"),
    (["--model=none.onnx"], "model=none.onnx: no such file"),
    (["--model=foreign.onnx"], "is no ONNX file of deploy.export"),
    (["--model=model.onnx", "--gallery=nowhere"], "gallery=nowhere: no such folder"),
    (["--model=model.onnx", "--gallery=empty"], "gallery=empty holds no image"),
    (["--model=model.onnx", "--batch=0"], "batch=0: must be more than 0"),
    (["--model=model.onnx", "--port=70000"], "port=70000: must be from 0"),
    (["--model=model.onnx", "--host=no.such.host.invalid"], "cannot be listened on"),
    (["--model=model.onnx", "--galery=x"], "there is no setting 'galery'; did you mean gallery?"),
])
def test_a_mistake_is_one_line(arguments, message, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    Path("foreign.onnx").write_bytes(b"nothing of the kind")
    Path("empty").mkdir(exist_ok=True)
    assert cli.main(serve.TOOL, partial(serve.run), ["--port=0", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_port_that_is_taken_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(serve.TOOL, serve.run, ["--model=model.onnx", f"--port={port}"]) == 2
    assert "cannot be listened on: " in capsys.readouterr().err


def test_help_answers_without_onnxruntime():
    code = "import sys; from deploy import serve; assert not {'torch', 'onnxruntime', 'fastapi'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

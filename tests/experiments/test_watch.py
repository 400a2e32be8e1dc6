"""`python -m experiments.watch`: a page over run folders, in a browser, narrow and wide, light and dark."""
import http.client
import json
import re
import threading
import urllib.error
import urllib.request

import pytest
from PIL import Image

from experiments import curves, watch
from experiments.run_folders import run_folders

ODD = 'b&"<script>alert(1)</script>'


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    for name, loss in (("simclr-digits-0", 3.0), (ODD, 2.0), ("deep/er", 1.0)):
        (folder := root / (name.replace("/", "-") if name == ODD else name)).mkdir(parents=True)
        rows = [{"step": step, "loss": loss + 1 / step, "images_per_second": 100.0} for step in range(10, 1010, 10)]
        rows[-1] |= {"knn": 90.0, "rankme": float("nan")}
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 1010, "lo')
    Image.new("RGB", (900, 300), "red").save(root / "simclr-digits-0" / "curves.png")
    (root / "simclr-digits-0" / "encoder.safetensors").touch()
    (root / "simclr-digits-0" / "test.json").write_text(json.dumps({"pretrained": {"knn": 87.14}}))
    (root / "deep" / "er" / "report.html").write_text("<title>deep</title>")
    (root / "broken").mkdir()
    (root / "broken" / "metrics.jsonl").write_text("[1]\nno json\n")
    return root


@pytest.fixture
def address(runs):
    service = watch.server(runs, 0)
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{service.server_port}"
    service.shutdown()
    service.server_close()
    thread.join()


def test_rows_of_whole_lines_count(runs):
    found = {run.name: run for run in run_folders(runs)}
    assert len(found) == 4
    run = found["simclr-digits-0"]
    assert run.cells[:6] == ["ended", "1,000", "3.001", "90.0", "87.1", "100"]
    assert run.curve("knn") == [(1000, 90.0)]
    assert run.curve("rankme") == []
    assert found["deep/er"].cells[0] == "running"
    assert found["broken"].cells[1:6] == ["0", "", "", "", ""]


def test_a_curve_stays_small_and_ends_at_its_end():
    points = [(step, float(step)) for step in range(10_001)]
    thin = curves.thinned(points)
    assert len(thin) <= curves.MOST + 1
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    chart = curves.svg({"one": [(0, 0.0), (10, 1.0)], "flat": [(5, 0.5)]}, "loss")
    left, bottom, right = curves.LEFT, curves.HEIGHT - curves.BOTTOM, curves.WIDTH - 8
    assert f'points="{left}.0,{bottom}.0 {right}.0,{curves.TOP}.0"' in chart


def test_only_pictures_of_runs_are_given(runs, address):
    (runs.parent / "curves.png").write_bytes(b"secret")
    assert urllib.request.urlopen(f"{address}/picture/simclr-digits-0/curves.png").headers["Content-Type"] == "image/png"
    for path in ("picture/../curves.png", "picture/%2e%2e/curves.png", "picture/simclr-digits-0/metrics.jsonl", "x",
                 "picture/simclr-digits-0/../../curves.png"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/{path}")


def test_a_run_s_report_is_linked_and_given_where_it_has_one(runs, address):
    assert watch.page(runs, []).count('<a href="/report/') == 1
    assert '<a href="/report/deep/er" aria-label="report of deep/er">report</a>' in watch.page(runs, [])
    answer = urllib.request.urlopen(f"{address}/report/deep/er")
    assert (answer.headers["Content-Type"], answer.read()) == ("text/html; charset=utf-8", b"<title>deep</title>")
    for path in ("report/simclr-digits-0", "report/deep", "report/../deep/er", "report/deep/er/report.html"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/{path}")


def test_another_hosts_name_is_refused(address):
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", "/", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 403
    connection.close()


def test_chosen_runs_are_drawn(runs):
    text = watch.page(runs, ["simclr-digits-0"])
    assert text.count("<polyline class=\"c0\"") == 2 * 3  # loss, kNN, speed, each with its key
    assert '<polyline class="c1"' not in text
    assert "<script>" not in watch.page(runs, [])
    assert 'http-equiv="refresh"' in text
    assert 'http-equiv="refresh"' not in watch.page(runs, [], paused=True)


def test_no_folder_of_runs_is_one_line(tmp_path, capsys):
    assert watch.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.strip().endswith("no such folder")


def luminance(color: str) -> float:
    """WCAG's, of rgb(…)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_on_a_phone(address, browser, scheme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.get(address + "/?pause=1")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    names = [row.text for row in browser.find_elements("css selector", "tbody th")]
    assert "simclr-digits-0" in names
    assert any("<script>" in name for name in names)
    heads = browser.execute_script("return [...document.querySelectorAll('h1,h2')].map(e => e.tagName)")
    assert heads == ["H1", "H2", "H2", "H2", "H2"]  # loss, kNN, speed, pictures
    images = "return [...document.images].every(i => i.alt && i.complete && i.naturalWidth == 900 && i.clientWidth <= 360)"
    browser.execute_script("document.images[0].scrollIntoView()")
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(images))
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    paper, box = (browser.execute_script(style, name, "backgroundColor") for name in ("body", ".chart"))
    assert luminance(paper) > 0.9 if scheme == "light" else luminance(paper) < 0.05
    for name, what, behind in (("h1", "color", paper), (".soft", "color", paper), ("td", "color", paper), ("a", "color", paper),
                               (".chart text", "fill", box), (".legend", "color", paper), ("button", "color", box)):
        assert contrast(browser.execute_script(style, name, what), behind) >= 4.5, (name, scheme)
    strokes = "return [...document.querySelectorAll('.chart polyline')].map(e => getComputedStyle(e).stroke)"
    for stroke in browser.execute_script(strokes):
        assert contrast(stroke, box) >= 3  # of graphics
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

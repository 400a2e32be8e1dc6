"""The HTTP side: images come in, classes and neighbours go out, every mistake gets its reason, everything is counted.

    POST /classify      the classes, the likeliest first
    POST /neighbours    the gallery's images that are most like it (?count=8)
    POST /predict       both
    GET  /gallery/N     an image of the gallery, small
    GET  /  /health  /metrics

An image is the body itself, or the file of a form. Answers and errors are JSON: {"error": why} with a status of 4xx.
"""
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from deploy.batching import Batcher
from deploy.gallery import Gallery
from deploy.model import Model, Outputs, Refused
from deploy.settings import ServeSettings
from vision.decode import decode

PAGE = Path(__file__).with_name("page.html")
THUMBNAIL = 160  # pixels of the longer side
BODY_SECONDS = 20  # an upload may take
HEARD = 4  # times the largest upload: of a longer one the rest is not waited for
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
POLICY = "default-src 'none'; img-src 'self' blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


class Metrics:
    """What Prometheus reads (deploy/grafana.json shows it)."""

    def __init__(self):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        shared = {"registry": self.registry}
        self.requests = Counter("nolabel_requests", "requests answered", ["path", "status"], **shared)
        self.seconds = Histogram("nolabel_request_seconds", "from the request's head to the answer's end", ["path"],
                                 buckets=SECONDS, **shared)
        self.batches = Histogram("nolabel_batch_images", "images that the model saw at once",
                                 buckets=(1, 2, 4, 8, 16, 32, 64, 128), **shared)
        self.model_seconds = Histogram("nolabel_model_seconds", "of the model, for a batch", buckets=SECONDS, **shared)
        self.waiting = Gauge("nolabel_waiting_images", "images that wait for the model", **shared)

    def batch(self, size: int, waiting: int) -> None:
        self.batches.observe(size)
        self.waiting.set(waiting)


class Counted:
    """ASGI middleware: every request's time and status, by its route."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noted(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, status or 500).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def build(model: Model, gallery: Gallery | None, settings: ServeSettings) -> FastAPI:
    """words: batch, waiting, megabytes, megapixels, top, count (deploy/settings.py)."""
    metrics = Metrics()

    def answer(images: np.ndarray) -> Outputs:
        with metrics.model_seconds.time():
            return model(images)

    batcher = Batcher(answer, settings.batch, settings.waiting, metrics.batch)

    @contextlib.asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(title="nolabel", lifespan=running, docs_url=None, redoc_url=None)  # pages that load scripts from elsewhere
    app.add_middleware(Counted, metrics=metrics)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused):
        headers = ({"Retry-After": "1"} if error.status == 429 else {}) | ({"Connection": "close"} if error.close else {})
        return JSONResponse({"error": error.reason}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException):
        said = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
        return JSONResponse({"error": said.get(error.status_code, str(error.detail))}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError):
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception):
        return JSONResponse({"error": f"the service failed: {type(error).__name__}"}, 500)

    async def outputs(request: Request) -> Outputs:
        body = await upload(request, int(settings.megabytes * 1e6))
        return await batcher.ask(await asyncio.to_thread(model.taken, body, settings.megapixels))

    def classes(found: Outputs) -> list[dict]:
        if model.classes is None:
            raise Refused(404, "this model has features alone, no classes; ask /neighbours")
        odds = np.exp(found.logits - found.logits.max())
        odds /= odds.sum()
        order = np.argsort(-odds)[: settings.top]
        return [{"class": model.classes[i], "probability": round(float(odds[i]), 6)} for i in order]

    def neighbours(found: Outputs, count: int | None) -> list[dict]:
        if gallery is None:
            raise Refused(404, "there is no gallery; start with --gallery FOLDER")
        count = settings.count if count is None else count
        if not 1 <= count <= 100:
            raise Refused(422, f"count={count}: must be from 1 to 100")
        return [
            {"number": i, "similarity": round(similarity, 6), "class": gallery.label(i), "file": gallery.name(i),
             "image": f"/gallery/{i}"}
            for i, similarity in gallery.nearest(found.features, count)
        ]

    @app.post("/classify")
    async def classify(request: Request) -> dict:
        return {"classes": classes(await outputs(request))}

    @app.post("/neighbours")
    async def nearest(request: Request, count: int | None = None) -> dict:
        return {"neighbours": await asyncio.to_thread(neighbours, await outputs(request), count)}

    @app.post("/predict")
    async def predict(request: Request, count: int | None = None) -> dict:
        """What there is: classes of a classifier, neighbours where there is a gallery."""
        found = await outputs(request)
        answer = {} if model.classes is None else {"classes": classes(found)}
        return answer if gallery is None else answer | {"neighbours": await asyncio.to_thread(neighbours, found, count)}

    @app.get("/gallery/{number}")
    def image(number: int) -> Response:
        if gallery is None or not 0 <= number < len(gallery):
            raise Refused(404, f"the gallery has no image {number}")
        with open(gallery.files[number], "rb") as file:
            small = decode(file, at_least=THUMBNAIL)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = BytesIO()
        small.save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "model": model.path.name, "encoder": model.says["encoder"], "classes": model.classes,
                "gallery": 0 if gallery is None else len(gallery)}

    @app.get("/metrics")
    async def figures() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})

    return app


async def upload(request: Request, most: int) -> bytes:
    """The body, or the first file of a form, of at most so many bytes.  Raises Refused."""
    body = await _body(request, most)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        return body

    async def again():
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, again).form(max_files=1, max_fields=8)
    except (HTTPException, MultiPartException, ValueError, KeyError) as error:
        raise Refused(400, f"the form cannot be read: {getattr(error, 'detail', None) or error}") from error
    file = next((value for value in form.values() if not isinstance(value, str)), None)
    if file is None:
        raise Refused(400, "the form holds no file; send one, of any name")
    return await file.read()


async def _body(request: Request, most: int) -> bytes:
    """What is too long is read to its end, that its sender may hear why, but not kept, and not for longer than `HEARD`."""
    parts, size = [], 0
    said = request.headers.get("content-length", "0")
    refused = partial(Refused, 413, f"more than {most / 1e6:g} MB")
    if said.isdigit() and int(said) > HEARD * most:
        raise refused(close=True)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > HEARD * most:
                    raise refused(close=True)
                if size <= most:
                    parts.append(part)
    except TimeoutError as error:
        raise Refused(408, f"the body took longer than {BODY_SECONDS} s", close=True) from error
    if size > most:
        raise refused()
    return b"".join(parts)

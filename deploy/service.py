"""The HTTP service: images in, classes and neighbors out. Every request is counted, and every error states its reason.

    POST /classify      the classes, the likeliest first
    POST /neighbours    the gallery's most similar images (?count=8)
    POST /predict       both
    GET  /gallery/N     an image of the gallery, small
    GET  /  /health  /metrics

An image is the body itself, or the file of a form. Responses and errors are JSON: {"error": why} with a status of 4xx.
"""
import asyncio
import contextlib
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from deploy.batching import Batcher
from deploy.gallery import Gallery
from deploy.metrics import Metrics, RequestMetrics
from deploy.model import Model, Outputs, RequestError
from deploy.settings import ServeSettings
from deploy.upload import read_body_or_file
from vision.decode import decode
from vision.raster import read_pixels, shown

PAGE = Path(__file__).with_name("page.html")
THUMBNAIL = 160  # pixels of the longer side
POLICY = "default-src 'none'; img-src 'self' blob:; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def build(model: Model, gallery: Gallery | None, settings: ServeSettings) -> FastAPI:
    service = Service(model, gallery, settings)
    app = FastAPI(title="nolabel", lifespan=service.lifespan, docs_url=None, redoc_url=None)  # their pages load foreign scripts
    app.add_middleware(RequestMetrics, metrics=service.metrics)
    for kind, handler in ERRORS.items():
        app.add_exception_handler(kind, handler)
    posts = {"/classify": service.classify, "/neighbours": service.neighbors, "/predict": service.predict}
    for path, endpoint in posts.items():
        app.add_api_route(path, endpoint, methods=["POST"])
    pages = {"/gallery/{number}": service.thumbnail, "/health": service.health, "/metrics": service.prometheus, "/": page}
    for path, endpoint in pages.items():
        app.add_api_route(path, endpoint)
    return app


class Service:
    """The endpoints."""

    def __init__(self, model: Model, gallery: Gallery | None, settings: ServeSettings):
        self.model, self.gallery, self.settings, self.metrics = model, gallery, settings, Metrics()
        self.batcher = Batcher(self._run, settings.batch, settings.waiting, self.metrics.on_batch)

    def _run(self, images: np.ndarray) -> Outputs:
        with self.metrics.model_seconds.time():
            return self.model(images)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self.batcher.run())
        yield
        task.cancel()

    async def classify(self, request: Request) -> dict:
        return {"classes": self._classes(await self._outputs(request))}

    async def neighbors(self, request: Request, count: int | None = None) -> dict:
        return {"neighbours": await self._neighbors(await self._outputs(request), count)}

    async def predict(self, request: Request, count: int | None = None) -> dict:
        """Classes of a classifier, and neighbors where there is a gallery."""
        outputs = await self._outputs(request)
        classes = {} if self.model.classes is None else {"classes": self._classes(outputs)}
        return classes if self.gallery is None else classes | {"neighbours": await self._neighbors(outputs, count)}

    def _picture(self, file: BinaryIO) -> Image.Image:
        """An image as it is shown: of bands, the first three, or the first."""
        pixels = self.model.preprocessing.pixels
        if pixels is None:
            return decode(file, at_least=THUMBNAIL)
        bands = shown(read_pixels(file, pixels))
        return Image.fromarray(bands[0] if len(bands) == 1 else bands.transpose(1, 2, 0))

    def thumbnail(self, number: int) -> Response:
        if self.gallery is None or not 0 <= number < len(self.gallery):
            raise RequestError(404, f"the gallery has no image {number}")
        with open(self.gallery.files[number], "rb") as file:
            image = self._picture(file)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = BytesIO()
        image.save(buffer, "PNG")
        return Response(buffer.getvalue(), media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def health(self) -> dict:
        return {"status": "ok", "model": self.model.path.name, "encoder": self.model.metadata["encoder"],
                "classes": self.model.classes, "gallery": 0 if self.gallery is None else len(self.gallery)}

    async def prometheus(self) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _outputs(self, request: Request) -> Outputs:
        body = await read_body_or_file(request, int(self.settings.megabytes * 1e6))
        return await self.batcher.predict(await asyncio.to_thread(self.model.preprocess, body, self.settings.megapixels))

    def _classes(self, outputs: Outputs) -> list[dict]:
        if self.model.classes is None:
            raise RequestError(404, "this model has features and no classes; use /neighbours")
        if (threshold := self.model.metadata.get("threshold")) is not None:
            return several_classes(outputs.logits, self.model.classes, threshold, self.settings.top)
        odds = np.exp(outputs.logits - outputs.logits.max())
        odds /= odds.sum()
        order = np.argsort(-odds)[: self.settings.top]
        return [{"class": self.model.classes[i], "probability": round(float(odds[i]), 6)} for i in order]

    async def _neighbors(self, outputs: Outputs, count: int | None) -> list[dict]:
        if self.gallery is None:
            raise RequestError(404, "there is no gallery; start with --gallery FOLDER")
        count = self.settings.count if count is None else count
        if not 1 <= count <= 100:
            raise RequestError(422, f"count={count}: must be from 1 to 100")
        nearest = await asyncio.to_thread(self.gallery.nearest, outputs.features, count)
        return [
            {"number": i, "similarity": round(similarity, 6), "class": self.gallery.label(i), "file": self.gallery.name(i),
             "image": f"/gallery/{i}"}
            for i, similarity in nearest
        ]


def several_classes(logits: np.ndarray, names: list[str], threshold: float, top: int) -> list[dict]:
    """Where an image may have several labels: each class with a probability of its own, the likeliest first; `predicted`
    from the threshold on, which validation images chose. All that are predicted, and at least `top`."""
    odds = 1 / (1 + np.exp(-logits.astype(np.float64)))
    order = np.argsort(-odds, kind="stable")[: max(top, int((odds >= threshold).sum()))]
    found = [(names[i], float(odds[i])) for i in order]
    return [{"class": name, "probability": round(p, 6), "predicted": p >= threshold} for name, p in found]


async def page() -> HTMLResponse:
    return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})


async def request_error(request: Request, error: RequestError) -> JSONResponse:
    headers = ({"Retry-After": "1"} if error.status == 429 else {}) | ({"Connection": "close"} if error.close else {})
    return JSONResponse({"error": error.reason}, error.status, headers)


async def http_error(request: Request, error: HTTPException) -> JSONResponse:
    reasons = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
    return JSONResponse({"error": reasons.get(error.status_code, str(error.detail))}, error.status_code, error.headers)


async def invalid_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"}, 422)


async def internal_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"the service failed: {type(error).__name__}"}, 500)


ERRORS = {
    RequestError: request_error, HTTPException: http_error, RequestValidationError: invalid_parameter,
    Exception: internal_error,
}

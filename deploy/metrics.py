"""What Prometheus reads of the service (deploy/grafana.json shows it)."""
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("nolabel_requests", "requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram("nolabel_request_seconds", "from the request's head to the response's end", ["path"],
                                 buckets=SECONDS, registry=registry)
        self.batches = Histogram("nolabel_batch_images", "images in a batch of the model", buckets=SIZES, registry=registry)
        self.model_seconds = Histogram("nolabel_model_seconds", "of the model, for a batch", buckets=SECONDS, registry=registry)
        self.waiting = Gauge("nolabel_waiting_images", "images that wait for the model", registry=registry)

    def on_batch(self, size: int, waiting: int) -> None:
        self.batches.observe(size)
        self.waiting.set(waiting)


class RequestMetrics:
    """ASGI middleware: the time and status of every request, by its route."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_counted(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, status or 500).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

"""An exported model over HTTP: classes, nearest neighbors, a page to drop an image on, metrics.

    uv run python -m deploy.export --encoder runs/y/classifier.safetensors --data fashion_mnist --gallery 2000 --out runs/shirts
    uv run python -m deploy.serve --model runs/shirts/model.onnx --gallery runs/shirts/gallery

Runs on onnxruntime and never loads torch. Listens on this machine only, unless --host names another address.
"""
import contextlib
import socket
import sys
from pathlib import Path

from core import cli, signals, training
from deploy.settings import ServeSettings

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.serve",
    primary=ROOT / "deploy" / "serve.yaml",
    searched=(),
    summary="Serve an exported model: python -m deploy.serve --model runs/x/model.onnx --gallery FOLDER",
    settings=ServeSettings,
)
LOCAL = ("127.0.0.1", "localhost", "::1")


def main() -> int:
    return cli.main(TOOL, run)


def check(settings: ServeSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    if settings.model is None or not settings.model.endswith(".onnx"):
        raise ValueError(f"model={settings.model}: give a file of deploy.export, such as runs/…/model.onnx")
    positive = ("batch", "waiting", "megabytes", "megapixels", "top", "count")
    wrong = {name: "more than 0" for name in positive if not getattr(settings, name) > 0}
    wrong |= {} if 0 <= settings.port < 65536 else {"port": "from 0 (any that is free) to 65535"}
    wrong |= {} if settings.threads >= 0 else {"threads": "0 or more"}
    wrong |= {} if settings.count <= 100 else {"count": "at most 100"}
    training.refuse(cli.flat(settings), wrong)


def run(settings: ServeSettings) -> int:
    """Serve until a signal ends the process.  Raises ValueError."""
    check(settings)
    from deploy import service
    from deploy.gallery import read_gallery
    from deploy.model import Model

    listening = listen(settings.host, settings.port)
    model, gallery = Model(cli.expand(settings.model), settings.threads), None
    if settings.gallery is not None:
        gallery, skipped = read_gallery(cli.expand(settings.gallery), model, settings.megapixels, Path("runs") / "galleries")
        for path, why in list(skipped.items())[:10]:
            print(f"left out {path}: {why}", file=sys.stderr)
    app = service.build(model, gallery, settings)
    if settings.host in LOCAL:
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        # Under any other name the request comes from a foreign site that resolves to this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])

    import uvicorn

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listening.listen(1024)  # before the address is printed, since a client may connect at once
    images, port = f", {len(gallery):,} images to compare with" if gallery else "", listening.getsockname()[1]
    print(f"{model.path.name} of {model.metadata['encoder']}{images}: http://{host}:{port}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=30, timeout_graceful_shutdown=10)
    with contextlib.suppress(signals.StopRequest):  # uvicorn raises the signal again after it has ended in order
        uvicorn.Server(config).run([listening])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to the port but accepts nobody yet.  Raises ValueError where the port cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ValueError(f"host={host} port={port} cannot be listened on: {error.strerror or error}") from error
    return bound


if __name__ == "__main__":
    sys.exit(main())

"""An exported model over HTTP: classes, nearest neighbours, a page to drop an image on, metrics.

    uv run python -m deploy.export --encoder runs/y/classifier.safetensors --data fashion_mnist --gallery 2000 --out runs/shirts
    uv run python -m deploy.serve --model runs/shirts/model.onnx --gallery runs/shirts/gallery

Runs on onnxruntime and never loads torch. Listens on this machine alone unless --host says otherwise.
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


def main() -> int:
    return cli.main(TOOL, run)


def check(settings: ServeSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    if settings.model is None or not settings.model.endswith(".onnx"):
        raise ValueError(f"model={settings.model}: say which file of deploy.export, such as runs/…/model.onnx")
    named = ("batch", "waiting", "megabytes", "megapixels", "top", "count")
    wrong = {name: "more than 0" for name in named if not getattr(settings, name) > 0}
    wrong |= {} if 0 <= settings.port < 65536 else {"port": "from 0 (any that is free) to 65535"}
    wrong |= {} if settings.threads >= 0 else {"threads": "0 or more"}
    wrong |= {} if settings.count <= 100 else {"count": "at most 100"}
    training.refuse(cli.flat(settings), wrong)


def run(settings: ServeSettings) -> int:
    check(settings)
    from deploy import gallery, service
    from deploy.model import Model

    listening = listen(settings.host, settings.port)
    model, found = Model(cli.expand(settings.model), settings.threads), None
    if settings.gallery is not None:
        found, skipped = gallery.read(cli.expand(settings.gallery), model, settings.megapixels, Path("runs") / "galleries")
        for path, why in list(skipped.items())[:10]:
            print(f"left out {path}: {why}", file=sys.stderr)
    app = service.build(model, found, settings)
    if settings.host in ("127.0.0.1", "localhost", "::1"):
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])  # whatever a site calls it

    import uvicorn

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    listening.listen(1024)  # whoever reads the next line may ask at once
    pictures = f", {len(found):,} images to compare with" if found else ""
    print(f"{model.path.name} of {model.says['encoder']}{pictures}: http://{host}:{listening.getsockname()[1]}", flush=True)
    serving = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=30, timeout_graceful_shutdown=10)
    with contextlib.suppress(signals.StopRequest):  # it ends well: uvicorn passes on what ended it
        uvicorn.Server(serving).run([listening])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """The port, taken; nobody is let in yet.  Raises ValueError where it cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise ValueError(f"host={host} port={port} cannot be listened on: {error.strerror or error}") from error
    return found


if __name__ == "__main__":
    sys.exit(main())

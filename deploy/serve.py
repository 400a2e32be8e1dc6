"""An exported model over HTTP: classes, nearest neighbours, a page to drop an image on, metrics.

    uv run python -m deploy.export --encoder runs/y/classifier.safetensors --data fashion_mnist --gallery 2000 --out runs/shirts
    uv run python -m deploy.serve --model runs/shirts/model.onnx --gallery runs/shirts/gallery

Runs on onnxruntime and never loads torch. Listens on this machine alone unless --host says otherwise.
"""
import contextlib
import socket
import sys
from pathlib import Path

from core import command, config, signals
from deploy.words import ServeWords

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="deploy.serve",
    primary=ROOT / "deploy" / "serve.yaml",
    searched=(),
    summary="Serve an exported model: python -m deploy.serve --model runs/x/model.onnx --gallery FOLDER",
    words=ServeWords,
)


def main() -> int:
    return config.main(TOOL, run)


def check(words) -> None:
    """Refuse what can be refused before anything is loaded."""
    if words.model is None or not words.model.endswith(".onnx"):
        raise ValueError(f"model={words.model}: say which file of deploy.export, such as runs/…/model.onnx")
    named = ("batch", "waiting", "megabytes", "megapixels", "top", "count")
    wrong = {name: "more than 0" for name in named if not words[name] > 0}
    wrong |= {} if 0 <= words.port < 65536 else {"port": "from 0 (any that is free) to 65535"}
    wrong |= {} if words.threads >= 0 else {"threads": "0 or more"}
    wrong |= {} if words.count <= 100 else {"count": "at most 100"}
    command.refuse(config.flat(words), wrong)


def run(words) -> int:
    check(words)
    from deploy import gallery, service
    from deploy.model import Model

    listening = listen(words.host, words.port)
    model, found = Model(config.expand(words.model), words.threads), None
    if words.gallery is not None:
        found, skipped = gallery.read(config.expand(words.gallery), model, words.megapixels, Path("runs") / "galleries")
        for path, why in list(skipped.items())[:10]:
            print(f"left out {path}: {why}", file=sys.stderr)
    app = service.build(model, found, words)
    if words.host in ("127.0.0.1", "localhost", "::1"):
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])  # whatever a site calls it

    import uvicorn

    host = f"[{words.host}]" if ":" in words.host else words.host
    listening.listen(1024)  # whoever reads the next line may ask at once
    pictures = f", {len(found):,} images to compare with" if found else ""
    print(f"{model.path.name} of {model.says['encoder']}{pictures}: http://{host}:{listening.getsockname()[1]}", flush=True)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=30, timeout_graceful_shutdown=10)
    with contextlib.suppress(signals.StopRequest):  # it ends well: uvicorn passes on what ended it
        uvicorn.Server(settings).run([listening])
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

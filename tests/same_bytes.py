"""Do the tools still leave the same bytes? Records what short runs of every tool write, and compares with a record.

    .venv/bin/python tests/same_bytes.py record before.json      at the old commit
    .venv/bin/python tests/same_bytes.py compare before.json     at the new one; exit code 1 where something differs

For a change that must not alter what a run computes. A record holds for one machine: another CPU's kernels round differently.
Of weights it keeps the tensors' bytes and not their names or headers, of results the figures and not the seconds.
"""
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from commands import run, together
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--data=digits", "--batch_size=64", "--steps=6", "--log_every=1", "--evals=2", "--report=false"]
TINY = [*SMALL, "--encoder=test_resnet", "--image_size=16"]
VIT = [*SMALL, "--encoder=test_vit", "--image_size=32"]
SIZES = {"hidden": 32, "dim": 16, "predictor_hidden": 32, "queue_size": 128, "bn_splits": 4, "prototypes": 20, "slices": 24}
PASSING = ("seconds", "per_second", "images_per_second", "hardware", "versions", "commit", "when")
PASSING += ("time", "folder", "out", "command", "code")


def main() -> int:
    action, path = sys.argv[1], Path(sys.argv[2])
    only = sys.argv[3:]
    kept = json.loads(path.read_text()) if action == "compare" else {}
    found, wrong = {}, 0
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in digests(Path(folder), only):
            found[name] = digest
            if action == "record":
                path.write_text(json.dumps(found, indent=1))
            elif name not in kept or kept[name] != digest:
                wrong += 1
                print(f"{'differs' if name in kept else 'is new'}: {name}", flush=True)
    lost = [name for name in kept if name not in found and (not only or name.split()[0] in only)]
    print(f"{len(found)} files, {wrong} differ, {len(lost)} missing {lost or ''}")
    return 1 if wrong or lost else 0


def digests(folder: Path, only: list[str]) -> Iterator[tuple[str, str]]:
    """(case and file, digest) of all that the cases write."""
    _pictures(folder / "photos")
    for case, module, words, processes in cases(folder):
        if only and case not in only and not case.startswith("teacher"):
            continue
        out, logs = folder / case, folder / "logs" / case
        words = words if words[-1].startswith("--out=") or "--pause_at=1" in words else [*words, f"--out={out}"]
        if processes > 1:
            ended = [job.wait() for job in together(*words, logs=logs, size=processes, module=module)]
        else:
            ended = [run(*words, logs=logs, module=module)]
        if any(end.code for end in ended):
            raise SystemExit(f"{case}: {ended[0].err}")
        written = [*out.rglob("*.safetensors"), *out.rglob("results.json")]
        for path in sorted(written):
            yield f"{case} {path.relative_to(out)}", digest(path)


def cases(folder: Path) -> Iterator[tuple[str, str, list[str], int]]:
    """(name, module, words, processes)"""
    pretrain = "ssl.pretrain"
    for path in sorted((ROOT / "ssl" / "method").glob("*.yaml")):
        text, base = path.read_text(), VIT if "\nencoder: vit" in path.read_text() else TINY
        sizes = [f"--method.{name}={value}" for name, value in SIZES.items() if f"\n  {name}:" in text]
        yield path.stem, pretrain, [f"--method={path.stem}", *base, *sizes], 1
        if path.stem in ("simclr", "moco_v2", "dino", "barlow_twins", "swav"):
            yield f"{path.stem}-2", pretrain, [f"--method={path.stem}", *base, *sizes], 2
    photos = ["--data=folder", f"--data.root={folder / 'photos'}", "--batch_size=16", "--steps=4", "--log_every=1",
              "--evals=1", "--encoder=test_resnet", "--image_size=16", "--method.hidden=16", "--method.dim=8"]
    yield "folder", pretrain, ["--method=simclr", *photos, "--workers=2"], 1
    yield "report", pretrain, ["--method=simclr", *photos[:-2], "--method.dim=8", "--data=digits", "--image_size=8"], 1
    yield "drop_path", pretrain, ["--method=byol", *VIT], 1
    chunked = ["--method=simclr", *TINY, "--chunk=16", "--optim.name=lars", "--clip=1"]
    yield "chunk", pretrain, chunked, 1
    yield "accumulate", pretrain, ["--method=byol", *TINY, "--accumulate=2", "--optim.name=sgd"], 1
    paused = ["--method=moco_v2", *TINY, "--steps=60", f"--out={folder / 'paused'}"]
    yield "pause", pretrain, [*paused, "--pause_at=1"], 1
    yield "paused", pretrain, paused, 1
    yield "teacher", "linear_eval.finetune", [*SMALL[:-1], "--encoder=test_resnet", "--image_size=16"], 1
    for path in sorted((ROOT / "linear_eval" / "method").glob("*.yaml")):
        words = [f"--method={path.stem}", *SMALL[:-1], "--encoder=test_vit", "--image_size=32"]
        yield f"finetune-{path.stem}", "linear_eval.finetune", words, 1
    teacher = f"--teacher={folder / 'teacher' / 'classifier.safetensors'}"
    for path in sorted((ROOT / "distill" / "method").glob("*.yaml")):
        words = [teacher, "--student=test_resnet", f"--method={path.stem}", "--data=digits", "--image_size=16",
                 "--batch_size=64", "--steps=6", "--cache=none"]
        yield f"distill-{path.stem}", "distill.train", words, 1
    encoder = f"--encoder={folder / 'simclr' / 'encoder.safetensors'}"
    yield "evaluate", "linear_eval.evaluate", [encoder, "--data=digits", "--cache=none", "--picture=false",
                                               "--parts=[knn,logistic,linear]", "--protocol.linear.epochs=2"], 1
    yield "prune", "deploy.prune", [f"--encoder={folder / 'teacher' / 'classifier.safetensors'}", "--kind=structured",
                                    "--keep=0.5"], 1
    yield "supernet", "nas.supernet", ["--method=simclr", *SMALL[:-1], "--image_size=8", "--report=false"], 1


def digest(path: Path) -> str:
    if path.suffix == ".json":
        return hashlib.sha256(json.dumps(_lasting(json.loads(path.read_text())), sort_keys=True).encode()).hexdigest()[:16]
    with safe_open(path, "numpy") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 it is no dict
    parts = sorted(hashlib.sha256(f"{t.dtype} {t.shape}".encode() + t.tobytes()).hexdigest() for t in tensors)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _name(key: str) -> str:
    """A key, less the folder of a file that it names."""
    return re.sub(r"\S*/", "", key)


def _lasting(value):
    """Less what passes: seconds, machine, paths."""
    if isinstance(value, dict):
        return {_name(k): _lasting(v) for k, v in value.items() if not any(word in k for word in PASSING)}
    if isinstance(value, list):
        return [_lasting(v) for v in value]
    return value if not (isinstance(value, str) and "/" in value) else None


def _pictures(folder: Path) -> None:
    for i in range(60):
        path = folder / "abc"[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (20 + i % 7, 18 + i % 5, 3)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)).save(path)


if __name__ == "__main__":
    sys.exit(main())

"""Write an encoder in timm's format, to a folder or to the Hugging Face Hub.

    uv run python -m nolabel.push --encoder runs/x/encoder.safetensors --folder runs/x-for-timm
    uv run python -m nolabel.push --encoder runs/x/encoder.safetensors --repo NAME/REPOSITORY     # private, unless --public

leaves config.json, model.safetensors and a model card with the run's figures and provenance. timm reads them again, and they
are compared, before they get their place. `timm.create_model("local-dir:FOLDER", pretrained=True)`, or
"hf-hub:NAME/REPOSITORY", loads them without nolabel.
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

from nolabel.checkout import make_importable

make_importable()


def write_timm(encoder: str | Path, folder: str | Path) -> Path:
    """The file's encoder, or its classifier, as config.json, model.safetensors and README.md in a new folder.  → the folder

    Raises ValueError where timm cannot build it from a name and arguments, or cannot make its input.
    """
    from timm.models import save_for_hf

    from vision import artifact, to_timm

    path, folder = Path(encoder).expanduser(), Path(folder).expanduser()
    if folder.exists():
        raise ValueError(f"folder={folder}: is there already; name a new one")
    model, header = to_timm.timm_model(path)
    how = header.preprocessing
    height, width = how.geometry.height, how.geometry.width
    stated = {"mean": how.mean, "std": how.std, "input_size": (how.channels, height, width), "interpolation": "bilinear",
              "crop_pct": 1.0, "crop_mode": "center" if how.fit == "crop" else how.fit}
    config = {"pretrained_cfg": stated} | ({"label_names": list(header.classes)} if header.classes else {})
    arguments = header.spec.arguments | {"in_chans": header.spec.channels, "num_classes": len(header.classes or ())}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        draft = Path(place, "timm")
        save_for_hf(model, str(draft), model_config=config, model_args=arguments, safe_serialization=True)
        to_timm.check_equal(draft, model, header)
        (draft / "README.md").write_text(card(path, folder.name, artifact.read_header(path)), "utf-8")
        draft.rename(folder)
    return folder


def upload(encoder: str | Path, repository: str, public: bool = False) -> str:
    """`write_timm` to the Hub.  → the repository's address.  Raises as it."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as place:
        folder = write_timm(encoder, Path(place, repository.rpartition("/")[2]))
        hub = HfApi()
        address = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Add the encoder")
    return str(address)


def card(path: Path, name: str, header) -> str:
    """The model card.  header: EncoderHeader"""
    settings = header.origin.get("words", {})
    kind = "image-classification" if header.classes else "image-feature-extraction"
    lines = ["---", f"tags: [{kind}, timm, nolabel, self-supervised]", f"pipeline_tag: {kind}", "library_name: timm", "---", "",
             f"# {name}", "",
             f"`{header.spec.name}` by nolabel ({header.origin.get('tool', 'unknown tool')}), {header.dim} features.", "",
             "```python", "import timm", f'model = timm.create_model("local-dir:{name}", pretrained=True).eval()',
             "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))", "```", ""]
    if header.spec.channels == 1:
        lines += ["Images are gray: `image.convert('L')` before the transform.", ""]
    lines += _figures(path.parent / "test.json")
    lines += ["## Provenance", "", f"- tool: {header.origin.get('tool', 'unknown')}"]
    lines += [f"- {name}: {value}" for name, value in sorted(settings.items()) if isinstance(value, str | int | float | bool)]
    return "\n".join(lines) + "\n"


def _figures(path: Path) -> list[str]:
    """The run's scores on test images as a table; a sentence where there are none."""
    try:
        scores = json.loads(path.read_text())
        names = [name for name in scores["pretrained"] if not name.endswith("_std")]
        rows = [[source, *(f"{row[name]:.1f}" if name in row else "" for name in names)] for source, row in scores.items()]
    except (OSError, ValueError, KeyError, TypeError):
        return ["No figures lie beside the file that this was made from.", ""]
    table = [["test images, %", *names], ["---"] * (len(names) + 1), *rows]
    return ["## Measured", "", *(f"| {' | '.join(row)} |" for row in table), ""]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nolabel.push", description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="an encoder.safetensors or classifier.safetensors")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--folder", help="a new folder for the files")
    where.add_argument("--repo", help="a repository of the Hub: NAME/REPOSITORY")
    parser.add_argument("--public", action="store_true", help="with --repo: everybody may see it")
    options = parser.parse_args(argv)
    try:
        if options.folder:
            print(write_timm(options.encoder, options.folder))
        else:
            print(upload(options.encoder, options.repo, options.public))
    except (ValueError, OSError) as error:  # a server's answer is an OSError of requests or httpx
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

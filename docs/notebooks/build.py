"""Writes the notebooks beside it, run, with their outputs: `uv run --group docs python docs/notebooks/build.py`."""
import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).resolve().parent
PHOTOS = [
    """# Neighbors and a map of your own photos

From a folder of pictures to an encoder, the nearest neighbors of a picture, and a map of all.
Set `FOLDER` to your own pictures;
tiles of three photographs of scikit-learn and scikit-image stand in for them.""",
    """from pathlib import Path

FOLDER = Path("photos")
if not FOLDER.exists():  # a stand-in
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    FOLDER.mkdir()
    pictures = [*load_sample_images().images, skimage.data.coffee()]
    for number, picture in enumerate(pictures):
        for row in range(0, 336, 48):
            for column in range(0, 528, 48):
                tile = Image.fromarray(picture[row : row + 48, column : column + 48])
                tile.save(FOLDER / f"picture{number}-{row:03d}-{column:03d}.png")
files = sorted(path for path in FOLDER.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
print(len(files), "pictures")""",
    "Pretraining needs no labels. `steps` is small so that this page runs in minutes; leave it out for the plan's own length.",
    """import nolabel

run = nolabel.pretrain(method="simclr", data=FOLDER, steps=60, batch_size=64, image_size=32, encoder="tiny", report=False)
run.steps""",
    "One row of features a picture. Paths, PIL images and arrays will do.",
    """features = nolabel.encode(run.encoder, files)
near = nolabel.knn(features, features, k=7)
features.shape""",
    "Six pictures (left) and their nearest neighbors.",
    """import matplotlib.pyplot as plt
from PIL import Image

plt.rcParams["figure.dpi"] = 60
queries = range(0, len(files), max(1, len(files) // 6))[:6]
figure, axes = plt.subplots(len(queries), 7, figsize=(7, len(queries)))
for line, query in zip(axes, queries, strict=True):
    for axis, index in zip(line, near.index[query], strict=True):
        axis.imshow(Image.open(files[index]))
        axis.axis("off")""",
    "A map: the two directions in which features differ most. Colors are the names' first part.",
    """from sklearn.decomposition import PCA

places = PCA(2).fit_transform(features)
groups = [file.stem.split("-")[0] for file in files]
for group in sorted(set(groups))[:10]:
    chosen = [name == group for name in groups]
    plt.scatter(*places[chosen].T, s=8, label=group)
plt.legend();""",
]
FEATURES = [
    """# Features for scikit-learn

Any `encoder.safetensors` is a function from images to rows of numbers. Here: digits, from arrays, with a classifier
of scikit-learn on top, beside the same classifier on pixels.""",
    """import nolabel

run = nolabel.pretrain(method="simclr", data="digits", steps=100, report=False)
encoder = nolabel.load(run.encoder)
encoder.header.dim, encoder.header.spec.image_size""",
    "Images as arrays of 8 bits. The encoder has seen some of these digits without labels; labels are used below alone.",
    """import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

digits = load_digits()
images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # N,8,8
features = encoder.encode(images)
features.shape""",
    "Ten labels a class. One split: the differences are an example, not a measurement (docs/runs.md has those).",
    """from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train, test = train_test_split(np.arange(len(images)), train_size=100, stratify=digits.target, random_state=0)
for name, rows in (("pixels", images.reshape(len(images), -1)), ("encoder", features)):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(rows[train], digits.target[train])
    print(f"{name}: {100 * classifier.score(rows[test], digits.target[test]):.1f} % of {len(test)} digits")""",
    "The module itself is torch's, with timm's methods.",
    """import torch

with torch.inference_mode():
    maps = encoder.model.forward_features(encoder.preprocess(images[0])[None])
maps.shape  # B,C,h,w: features of places""",
]
NOTEBOOKS = {"photos": PHOTOS, "features": FEATURES}


def notebook(cells: list[str]) -> nbformat.NotebookNode:
    """Text and code in turn; the first two are text and code, and so on.  → without outputs"""
    made = [(new_code_cell if i % 2 else new_markdown_cell)(text) for i, text in enumerate(cells)]
    for i, cell in enumerate(made):
        cell["id"] = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=made, metadata={"kernelspec": kernel})


def executed(cells: list[str], folder: Path) -> nbformat.NotebookNode:
    """Run in a folder.  Raises nbclient's CellExecutionError"""
    made = notebook(cells)
    NotebookClient(made, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return kept(made)


def kept(made: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without times and standard error, whose warnings hold paths of a machine."""
    for cell in made.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.outputs = [out for out in outputs if "text/html" not in out.get("data", {})]
    return made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty folder to run them in; nolabel must be installed")
    options = parser.parse_args(argv)
    for name, cells in NOTEBOOKS.items():
        options.work.mkdir(parents=True, exist_ok=True)
        nbformat.write(executed(cells, options.work), HERE / f"{name}.ipynb")
        print(HERE / f"{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())

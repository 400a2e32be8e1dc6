"""nolabel from Python: the tools of the command line as functions, and encoder files as torch modules.

    import nolabel

    run = nolabel.pretrain(method="simclr", data="digits", steps=100)       # or data="~/photos", a folder of images
    print(run.scores["pretrained"]["knn"])
    encoder = nolabel.load(run.encoder)                                     # a torch module and its preprocessing
    features = encoder.encode(["one.png", "two.png"])                       # N,D
    near = nolabel.knn(features, features, k=2)                             # near.index, near.similarity: N,k

Settings are those of the command line, under the same names: a dot is written as two underscores (`optim__lr=0.1`) or as a dict
(`optim={"lr": 0.1}`). They are checked in the same way; a wrong one is a ValueError with the command line's one line.

Importing this puts the checkout last on `sys.path`, since its packages (core, vision, ssl, …) import each other by name, and
lets the standard library's module ssl find the submodules of the package ssl here. Whatever else imports ssl is not affected.
"""
from nolabel.checkout import make_importable

make_importable()

from core.errors import RunError, Stopped  # noqa: E402
from nolabel.encoder import Encoder, encode, load  # noqa: E402
from nolabel.neighbors import Neighbors, knn  # noqa: E402
from nolabel.tools import distill, evaluate, export, finetune, pretrain, search  # noqa: E402

__all__ = [
    "Encoder", "Neighbors", "RunError", "Stopped", "distill", "encode", "evaluate", "export", "finetune", "knn", "load",
    "pretrain", "search",
]

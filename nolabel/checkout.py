"""Makes the packages of the checkout importable from any working folder, the one called ssl among them."""
import importlib.util
import sys
from pathlib import Path

import ssl

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "vision", "linear_eval", "distill", "nas", "deploy")


def make_importable() -> None:
    """Let `core`, `vision`, `ssl.pretrain`, … be found here.  Raises ImportError where a name is another module's already.

    The standard library comes before every installed package, so its ssl is found first, and most programs have imported it by
    now. It stays the module that it is and gets a `__path__`, by which its submodules are found here.
    """
    folder = str(ROOT / "ssl")
    if folder not in (path := [*getattr(ssl, "__path__", [])]):
        ssl.__path__ = [folder, *path]
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))  # last: no module of the user's is hidden
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [*(spec.submodule_search_locations or [spec.origin])] if spec else []
        if str(ROOT / name) not in map(str, places):
            raise ImportError(
                f"nolabel's package {name} is hidden by {places[0] if places else 'another module'} of the same name; import "
                "nolabel before it, or in a process of its own"
            )

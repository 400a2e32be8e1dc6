"""How the CPU code of this package is compiled, and kept on disk until a source file that it depends on changes."""
import functools
import hashlib
from pathlib import Path

from numba import njit

# Every file whose functions or constants are compiled into the code that is kept. numba itself looks only at the file of the
# function that is called.
SOURCES = ("bands", "compiling", "kernel_policy", "kernels", "kernels_extended", "pixels", "policy", "preprocess", "resample",
           "resize", "view_params", "warp")  # fmt: skip

inner = njit(nogil=True, error_model="numpy")
contracted = njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz"})  # a·b + c rounded once
summing = njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})  # sums in lanes


def compiled(signature):
    """Compile now, and keep the code in __pycache__, or wherever else a folder for it can be written."""

    def decorate(function):
        function.__qualname__ = f"{function.__name__}_{sources_digest()}"  # numba names the kept files by it
        options = {"nogil": True, "error_model": "numpy"}
        try:
            return njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):
            return njit(signature, **options)(function)

    return decorate


@functools.cache
def sources_digest() -> str:
    """Of the contents of SOURCES."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]

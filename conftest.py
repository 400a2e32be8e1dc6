"""Let `import ssl.losses` work under a plain `pytest`, which may have imported the standard ssl module by now."""
import os
import sys
from pathlib import Path

import ssl

if "PYTEST_XDIST_WORKER" in os.environ:  # one test process a core: two threads each would fight for it
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
if not hasattr(ssl, "__path__"):  # the standard module: give it our submodules, as ssl/__init__.py has its names
    ssl.__path__ = [str(ROOT / "ssl")]

"""Let `import ssl.losses` work under a plain `pytest`, which may have imported the standard ssl module by now."""
import sys
from pathlib import Path

import ssl

ROOT = Path(__file__).resolve().parent

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
if not hasattr(ssl, "__path__"):  # the standard module: give it our submodules, as ssl/__init__.py has its names
    ssl.__path__ = [str(ROOT / "ssl")]

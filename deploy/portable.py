"""The former name of deploy/export_module.py, for scripts that import it."""
from deploy.export_module import ExportModule as Portable
from deploy.export_module import load, named

__all__ = ["Portable", "load", "named"]

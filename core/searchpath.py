"""Where Hydra looks for a tool's groups. As text among the overrides, a path with a comma or a bracket would be parsed."""
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ToolFolders(SearchPathPlugin):
    """Adds the folders of the tool that composes next."""

    folders: tuple[Path, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.folders:
            search_path.append("nolabel", f"file://{folder}")


def search(folders: tuple[Path, ...]) -> None:
    ToolFolders.folders = folders
    Plugins.instance().register(ToolFolders)

"""Where Hydra looks for choices beside conf/: the folder of `--config-dir`, and those of trusted packages."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from reid.config.checks import ConfigError
from reid.trust import TrustError, trusted_choices

#: The folder of `--config-dir`, searched by all that composes in this process.
further_choices: list[Path] = []


class FurtherChoices(SearchPathPlugin):
    """Adds those folders; of two files of one name that of conf/ counts."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        try:
            folders = [*further_choices, *trusted_choices()]
        except TrustError as error:
            raise ConfigError(str(error)) from error
        for folder in folders:
            search_path.append("reid", f"file://{folder}")

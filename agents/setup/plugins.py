"""Imports the modules of a user's own parts, and adds these parts to the tables. The only module that imports a plugin.

A plugin is a module with a function `register(registry)`. Nothing is added by importing it alone. `plugins=[...]` on a command line names
plugins; one that a saved configuration names is imported only if the command names it, too (conf/allowlist.py). Child processes import
the plugins of the configuration that their parent sends.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.cli.signals import slow_imports
from conf import names
from conf.allowlist import LOADED_PLUGINS, check_plugins, saved_plugins
from conf.arguments.aliases import normalize
from conf.schema import FusionConfig
from envs.spec import EnvSpec
from envs.suite import Suite
from envs.suites import SUITES
from system.errors import InputError

# What imports torch or Hydra is imported by the functions that need it: a program without plugins starts without torch, and actors run
# without Hydra.
if TYPE_CHECKING:
    from torch import nn

    from agents.acting.policy import ContextOverride, ContextRows
    from agents.fusion.base import Fusion
    from agents.network.core import Core
    from conf.arguments.flags import Typed

_VARIABLE = "MIMPALA_CONFIG_DIR"


class Probe(NamedTuple):
    """A plugin's probe.

    Attributes:
        make: (contexts of the other tasks [P, C], columns of the instruction in them, seed) -> what replaces the contexts of a policy.
        meaning: The contexts that the agent receives, in words.
    """

    make: Callable[[ContextRows, slice, Sequence[int]], ContextOverride]
    meaning: str


PROBES: dict[str, Probe] = {}
"""Probes of plugins (agents/evaluation/probes.py has the others)."""


class Registry:
    """Adds parts to the tables, for one plugin. Every method raises InputError for a name that is no word or is taken."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin

    def fusion(self, name: str, form: type[Fusion], *, options: Sequence[str] = ()) -> None:
        """Adds a form for flat features as `fusion=<name>`.

        Args:
            form: Constructed with (x_size, z_size, out_size) and the options.
            options: Keys of the group `fusion` that are further keyword arguments. `match_params` varies the first one.
        """
        from agents.fusion import FREE_DIMENSIONS, FUSIONS, OPTIONS

        self._add("fusion", name, form, FUSIONS, names.FLAT_FUSIONS, names.FUSIONS)
        known = FusionConfig.__dataclass_fields__
        if unknown := [option for option in options if option not in known]:
            raise InputError(
                f"plugins={self._plugin} gives fusion {name} the option {unknown[0]}: choose among {', '.join(known)}."
            )
        OPTIONS[name] = tuple(options)
        if options:
            FREE_DIMENSIONS[name] = options[0]

    def core(self, name: str, core: Callable[..., Core]) -> None:
        """Adds a core as `core=<name>`; it is made with (x_size, size), and agents/network/core.py has its contract."""
        from agents.network.core import CORES

        self._add("core", name, core, CORES, names.CORES)

    def torso(self, name: str, make: Callable[[EnvSpec, int], nn.Module]) -> None:
        """Adds a torso as `torso=<name>`. `make(env, torso.size)` raises InputError if it cannot read the observations of `env`."""
        from agents.network.torso import OWN_TORSOS

        self._add("torso", name, make, OWN_TORSOS, names.TORSOS)

    def probe(
        self, name: str, make: Callable[[ContextRows, slice, Sequence[int]], ContextOverride], meaning: str
    ) -> None:
        """Adds a probe as `probe=<name>` (Probe)."""
        self._add("probe", name, Probe(make, meaning), PROBES, names.PROBES)

    def suite(self, name: str, suite: Suite) -> None:
        """Adds a suite as `env=<name>`; the schema of its options has this name and default tasks."""
        self._add("suite", name, suite, SUITES)

    def _add(self, kind: str, name: str, part: Any, table: dict[str, Any], *lists: list[str]) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise InputError(
                f"plugins={self._plugin} registers {kind} {name!r}: give a name of lower-case letters, digits and _."
            )
        if name in table or any(name in listed for listed in lists):
            raise InputError(
                f"plugins={self._plugin} registers {kind} {name}, which exists already: give another name."
            )
        table[name] = part
        for listed in lists:
            listed.append(name)


def load_plugins(plugins: Collection[str]) -> None:
    """Imports these modules and registers their parts; each once in a process. InputError if one cannot be imported or registered.

    A module is searched where Python searches, and then in the working directory.
    """
    for plugin in plugins:
        if plugin in LOADED_PLUGINS:
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", plugin):
            raise InputError(f"plugins={plugin} is no name of a module: give it as in an import, without .py.")
        here = os.getcwd()
        if here not in sys.path:
            # Last, so that a file in the working directory hides no installed module.
            sys.path.append(here)
        try:
            register = getattr(importlib.import_module(plugin), "register", None)
            if register is None:
                raise InputError(f"plugins={plugin} has no function register(registry): see docs/extending.md.")
            register(Registry(plugin))
        except InputError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = (str(error).splitlines() or [""])[0]
            found = "" if isinstance(error, ModuleNotFoundError) else f" in line {place.lineno} of {place.filename}"
            raise InputError(
                f"plugins={plugin} cannot be imported ({type(error).__name__}{found}: {reason}): mend it, or start where it is found."
            ) from error
        LOADED_PLUGINS.append(plugin)
        from conf.composition import forget_choices

        forget_choices()


def prepare(typed: Typed) -> None:
    """Makes the folders of settings and the plugins of a command line known: `--config-dir`, MIMPALA_CONFIG_DIR and `plugins=`."""
    from conf.composition import use_config_dirs
    from conf.loading import compose_for

    folders = {"--config-dir": typed.flags.get("config_dir"), _VARIABLE: os.environ.get(_VARIABLE)}
    use_config_dirs({key: folder for key, folder in folders.items() if folder})
    given = [text for text in normalize(typed.overrides, typed.program) if text.startswith("plugins=")]
    if given:
        named = compose_for("evaluate", given).plugins
        with slow_imports():
            load_plugins(named)


def load_saved_plugins(data: Any, allowed: Collection[str], source: str) -> None:
    """Loads the plugins that a saved configuration names, if the command line allows them. InputError for another one."""
    check_plugins(data, allowed, source)
    load_plugins(saved_plugins(data))

"""``visualpath`` and ``visualbase`` for plugins written against them, where the venv has neither.

The files beside this one are found under those names by a finder that is asked last of all, so an
installed package is never shadowed. An installed ``visualpath`` is used as it is, whatever it has;
only a namespace (a folder that several distributions share) is completed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

_HERE = Path(__file__).parent
_TOPS = ("visualpath", "visualbase")


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: Any = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        top = fullname.partition(".")[0]
        if top not in _TOPS or (fullname != top and not _is_open(top)):
            return None
        place = _HERE.joinpath(*fullname.split("."))
        package = place / "__init__.py"
        if package.is_file():
            return importlib.util.spec_from_file_location(
                fullname, package, submodule_search_locations=[str(place)]
            )
        module = place.with_suffix(".py")
        return importlib.util.spec_from_file_location(fullname, module) if module.is_file() else None


def _is_open(top: str) -> bool:
    """Whether a top-level package is ours, or a namespace that anybody may add to."""
    found = sys.modules.get(top)
    file = getattr(found, "__file__", None)
    return file is None or _is_ours(found)


def _is_ours(module: Any) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(_HERE))


def install() -> None:
    """Makes them importable. Does nothing the second time."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def report_to(trace: Callable[[Dict[str, Any]], None]) -> None:
    """From now on every hub of ours hands its records to ``trace`` too."""
    from .. import observing

    observing.forward = trace


def adopt(trace: Callable[[Dict[str, Any]], None]) -> None:
    """The same for the venv's own ``visualpath``, if the plugin uses its hub."""
    theirs = sys.modules.get("visualpath.observability")
    if theirs is None or _is_ours(theirs):
        return
    from ..observing import TraceLevel, as_record

    class ToParent:
        def write(self, record: Any) -> None:
            trace(as_record(record))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    try:
        hub = theirs.ObservabilityHub.get_instance()
        if not hub.enabled:
            hub.configure(level=theirs.TraceLevel(int(TraceLevel.NORMAL)))
        hub.add_sink(ToParent())
    except Exception as error:
        logging.getLogger(__name__).warning("records of the installed visualpath stay here: %s", error)

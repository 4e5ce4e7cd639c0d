"""Plugins of this venv."""

from typing import Any, Dict, List, Type

from visualpath_edge import loading

EXTRACTORS_GROUP = loading.GROUPS["extractor"]
FUSIONS_GROUP = loading.GROUPS["fusion"]


def discover_extractors() -> Dict[str, Any]:
    """Entry points by name; ``load()`` gives the class."""
    return {name: found[0] for name, found in loading.installed("extractor").items()}


def discover_fusions() -> Dict[str, Any]:
    return {name: found[0] for name, found in loading.installed("fusion").items()}


def load_extractor(name: str) -> Type[Any]:
    return _load("extractor", name)


def load_fusion(name: str) -> Type[Any]:
    return _load("fusion", name)


def create_extractor(name: str, **kwargs: Any) -> Any:
    return load_extractor(name)(**kwargs)


def _load(kind: str, name: str) -> Any:
    try:
        return loading.find(kind, name).load()
    except ValueError as error:
        raise KeyError(str(error)) from None


class PluginRegistry:
    """Classes by name: those registered here, then those installed."""

    def __init__(self) -> None:
        self._classes: Dict[str, Dict[str, Type[Any]]] = {"extractor": {}, "fusion": {}}

    def register_extractor(self, name: str, extractor_class: Type[Any]) -> None:
        self._classes["extractor"][name] = extractor_class

    def register_fusion(self, name: str, fusion_class: Type[Any]) -> None:
        self._classes["fusion"][name] = fusion_class

    def get_extractor_class(self, name: str) -> Type[Any]:
        return self._classes["extractor"].get(name) or load_extractor(name)

    def create_extractor(self, name: str, **kwargs: Any) -> Any:
        return self.get_extractor_class(name)(**kwargs)

    def list_extractors(self) -> List[str]:
        return sorted({*self._classes["extractor"], *loading.installed("extractor")})

    def list_fusions(self) -> List[str]:
        return sorted({*self._classes["fusion"], *loading.installed("fusion")})


__all__ = [
    "EXTRACTORS_GROUP",
    "FUSIONS_GROUP",
    "PluginRegistry",
    "create_extractor",
    "discover_extractors",
    "discover_fusions",
    "load_extractor",
    "load_fusion",
]

"""Isolation levels, as a plugin may recommend one. What is used is the config's decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Dict, Optional


class IsolationLevel(IntEnum):
    """From none to most."""

    INLINE = 0
    THREAD = 1
    PROCESS = 2
    VENV = 3
    CONTAINER = 4

    @classmethod
    def from_string(cls, name: str) -> "IsolationLevel":
        try:
            return cls[name.upper()]
        except KeyError:
            known = ", ".join(level.name.lower() for level in cls)
            raise ValueError(f"unknown isolation level {name!r}; known: {known}") from None


@dataclass
class IsolationConfig:
    """Levels by extractor, for code that carries them around."""

    default_level: IsolationLevel = IsolationLevel.INLINE
    overrides: Dict[str, IsolationLevel] = field(default_factory=dict)
    venv_paths: Dict[str, str] = field(default_factory=dict)
    container_images: Dict[str, str] = field(default_factory=dict)

    def get_level(
        self, extractor_name: str, recommended: Optional[IsolationLevel] = None
    ) -> IsolationLevel:
        """The override, else the higher of what is recommended and the default."""
        if extractor_name in self.overrides:
            return self.overrides[extractor_name]
        return max(self.default_level, recommended or self.default_level)

    def get_venv_path(self, extractor_name: str) -> Optional[str]:
        return self.venv_paths.get(extractor_name)

    def get_container_image(self, extractor_name: str) -> Optional[str]:
        return self.container_images.get(extractor_name)

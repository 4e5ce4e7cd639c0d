"""What every test of the worker uses."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parent import PLUGINS, Parent  # noqa: E402


@pytest.fixture
def site(tmp_path):
    """A folder in which distributions can be installed; on the child's path."""

    def install(name, version, extractors=(), fusions=(), modules=None):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = [("visualpath.extractors", extractors), ("visualpath.fusions", fusions)]
        text = "".join(
            f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in dict(entries).items())
            for group, entries in groups
            if entries
        )
        (info / "entry_points.txt").write_text(text)
        for path, code in (modules or {}).items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
        return tmp_path

    install.path = tmp_path
    return install


@pytest.fixture
def child(request):
    """Starts children of classes in plugins/examples.py; ends them all."""
    parents = []

    def start(cls, *arguments, config=None, ready=True, **how):
        arguments = ("--entry-point", f"examples:{cls}", *arguments)
        parents.append(Parent(*arguments, **how))
        parent = parents[-1]
        if ready:
            parent.pool1 = parent.pool()
            parent.ready = parent.start(config, pools=[parent.pool1])
            assert type(parent.ready).__name__ == "Ready", parent.ready
        return parent

    yield start
    for parent in parents:
        parent.close()


@pytest.fixture
def picture():
    """48 × 64 pixels, no two alike."""
    return np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)


assert PLUGINS.is_dir()

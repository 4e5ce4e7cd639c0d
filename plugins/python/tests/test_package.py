"""What authors are told, and what they install."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from parent import HANGS, SRC

import visualpath_edge

ROOT = Path(__file__).resolve().parents[1]


def test_every_example_in_the_readme_runs(tmp_path):
    readme = (ROOT / "README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(examples) == 4
    (tmp_path / "brightness.py").write_text(examples[0])
    # `visualpath` is there as soon as the test helpers are.
    for example in ("", *examples[1:]):
        code = "import visualpath_edge.testing\n" + example
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{tmp_path}:{SRC}", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        assert ended.returncode == 0, f"{example}\n{ended.stderr}"


def test_a_wheel_has_every_module_and_no_test(tmp_path):
    pytest.importorskip("setuptools", "77", reason="it is what builds the wheel")
    # A copy, so that nothing is built beside the sources.
    source = tmp_path / "source"
    for file in [ROOT / "pyproject.toml", ROOT / "README.md", *SRC.rglob("*.py")]:
        copy = source / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    built = subprocess.run(
        [*command, "-w", tmp_path, source], capture_output=True, text=True, timeout=10 * HANGS
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"visualpath_edge-{visualpath_edge.__version__}-py3-none-any.whl"
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")}
    assert names == {str(file.relative_to(SRC)) for file in SRC.rglob("*.py")}

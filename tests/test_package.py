"""What is shipped: the wheel holds the package and the nano's weights; gate and official door work beside what it asks for."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import shirg
from scripts import build_package

ROOT = Path(shirg.__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TORCH_NEEDS = {"packaging", "psutil", "numpy"}  # what torch itself may use


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("a checkout is needed: what is packed is what git knows")
    return build_package.build(tmp_path_factory.mktemp("dist"))


def test_wheel_is_the_package_and_nothing_else(built):
    assert build_package.problems(built[1]) == []


def test_what_a_wheel_lacks_is_named(built, tmp_path):
    poor = tmp_path / "poor.whl"
    with zipfile.ZipFile(built[1]) as whole, zipfile.ZipFile(poor, "w") as archive:
        for name in whole.namelist():
            if not name.endswith(("model.safetensors", "errors.py")):
                archive.writestr(name, whole.read(name) + b"#" * (name == "shirg/files.py"))
        archive.writestr("tests/stray.py", "")
    assert build_package.problems(poor) == [
        "shirg/errors.py is missing",
        "nothing ends with nano/weights/model.safetensors",
        "tests/stray.py is no part of the package",
        "shirg/files.py differs",
    ]


def test_sdist_holds_what_a_wheel_is_made_of(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "shirg/nano/weights/model.safetensors"} <= names


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", text)[0] for text in requirements}


def test_what_a_plain_install_brings_leaves_the_official_pins_alone():
    """LaViDa's pyproject.toml: torch 2.6.0, numpy 1.26.2; everything else is the extra's."""
    pins = {"torch": "2.6.0", "numpy": "1.26.2", "pillow": "12.0"}
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {one.name for one in asked} == set(pins)
    assert all(one.specifier.contains(pins[one.name]) for one in asked)


def test_gate_and_official_door_work_beside_what_a_plain_install_brings(tmp_path):
    """Every other dependency is hidden; scripts/check_package.sh does it in an environment that has none."""
    hidden = names(PROJECT["optional-dependencies"]["full"]) - names(PROJECT["dependencies"]) - TORCH_NEEDS
    assert {"transformers", "safetensors", "tyro"} <= hidden
    code = (
        "import sys, runpy\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {sorted(hidden)}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "sys.argv = ['try_install.py', 'minimal']\n"
        f"runpy.run_path({str(ROOT / 'scripts/try_install.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "the gate keeps 512 of 2304 tokens" in done.stdout


def test_a_wheel_tells_lmms_eval_and_the_console_of_their_entry_points(built):
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/entry_points.txt"))
        declared = configparser.ConfigParser()
        declared.read_string(archive.read(name).decode())
    assert dict(declared["lmms_eval.models"]) == {"lavida_shirg": "shirg.integrations.lmms_eval:manifest"}
    assert dict(declared["console_scripts"]) == {"shirg": "shirg.cli:main"}


def test_versions_agree():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert cited[1] == shirg.__version__

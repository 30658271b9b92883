"""What is shipped: the wheel holds the package and the nano's weights; gate and official door work beside what it asks for."""

from __future__ import annotations

import configparser
import re
import runpy
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import shirg
from scripts import build_package
from tests import forked

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


class Hidden:
    """A finder by which the packages `names` are not installed, whatever is."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", text)[0] for text in requirements}


def test_what_a_plain_install_brings_leaves_the_official_pins_alone():
    """LaViDa's pyproject.toml: torch 2.6.0, numpy 1.26.2; everything else is the extra's."""
    pins = {"torch": "2.6.0", "numpy": "1.26.2", "pillow": "12.0"}
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {one.name for one in asked} == set(pins)
    assert all(one.specifier.contains(pins[one.name]) for one in asked)


def try_beside_a_plain_install(hidden: set[str]) -> None:
    forked.forget("shirg", "PIL", *hidden)
    sys.meta_path.insert(0, Hidden(hidden))
    sys.argv = ["try_install.py", "minimal"]
    runpy.run_path(str(ROOT / "scripts" / "try_install.py"), run_name="__main__")


def test_gate_and_official_door_work_beside_what_a_plain_install_brings():
    """Every other dependency is hidden; scripts/check_package.sh does it in an environment that has none."""
    hidden = names(PROJECT["optional-dependencies"]["full"]) - names(PROJECT["dependencies"]) - TORCH_NEEDS
    assert {"transformers", "safetensors", "tyro"} <= hidden
    ended = forked.run(try_beside_a_plain_install, hidden)
    assert ended.code == 0, ended.err
    assert f"{ROOT / 'shirg'}" in ended.out and "the gate keeps 512 of 2304 tokens" in ended.out


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

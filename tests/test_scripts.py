"""Every promised name and script: run as a file, imported with PYTHONPATH=./shirg, from the package, as console command."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shirg
from tests import forked

ROOT = Path(shirg.__file__).resolve().parents[1]

PROMISED = {
    "shirg_dataset_preparation": ("SHIRGDatasetConfig", "SHIRGDatasetProcessor"),
    "shirg_lora_training": ("SHIRGLoRAConfig", "SHIRGLoRATrainer"),
    "shirg_evaluation": ("SHIRGEvaluationConfig", "SHIRGEvaluator"),
    "siglip_encoder": ("SigLipVisionTower",),
    "run_shirg_lora_training": (),
    "test_shirg_lora": (),
}
RUNNABLE = [name for name in PROMISED if name != "siglip_encoder"]


def python(*arguments: str, cwd: Path, path: str | None = None) -> subprocess.CompletedProcess:
    """Python in a process of its own that sees nothing of pytest's `sys.path`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | ({"PYTHONPATH": path} if path else {})
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def import_top_level_modules(cwd: Path) -> None:
    """As Python does that is started in `cwd` with PYTHONPATH=./shirg."""
    os.chdir(cwd)
    forked.forget("shirg", *PROMISED)
    sys.path[:] = ["", str(ROOT / "shirg"), *(folder for folder in sys.path if folder not in ("", str(ROOT)))]
    for module, names in PROMISED.items():
        top_level, inside = importlib.import_module(module), importlib.import_module(f"shirg.{module}")
        assert Path(top_level.__file__) == Path(inside.__file__) == ROOT / "shirg" / f"{module}.py"
        whole = importlib.import_module("shirg")
        assert all(getattr(top_level, name) is getattr(inside, name) is getattr(whole, name) for name in names)
    print(importlib.import_module("shirg").__file__)


def test_top_level_modules_have_the_objects_of_the_package(tmp_path):
    """With PYTHONPATH=./shirg, from a foreign folder."""
    ended = forked.run(import_top_level_modules, tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(ROOT / "shirg" / "__init__.py")


@pytest.mark.parametrize("name", RUNNABLE)
def test_script_runs_from_the_root_and_from_elsewhere(name, tmp_path):
    cwd, script = (
        (ROOT, f"shirg/{name}.py") if name == "run_shirg_lora_training" else (tmp_path, ROOT / f"shirg/{name}.py")
    )
    done = python(str(script), "--help", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "--debug" in done.stdout and f"{name}.py" in done.stdout


def test_script_wins_over_another_installed_shirg(tmp_path):
    (tmp_path / "shirg").mkdir()
    (tmp_path / "shirg" / "__init__.py").write_text("raise ImportError('the installed release was used')")
    done = python(str(ROOT / "shirg/test_shirg_lora.py"), "--help", cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_import_is_instant_and_pulls_in_nothing_heavy(tmp_path):
    code = (
        "import time; began = time.perf_counter(); import shirg; took = time.perf_counter() - began; import sys;"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'matplotlib', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy; assert took < 2, took"
    )
    done = python("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_package_offers_exactly_what_it_lists():
    assert set(shirg._HOMES) | {"__version__"} == set(shirg.__all__)
    for name in shirg.__all__:
        assert getattr(shirg, name) is not None
        assert name in dir(shirg)
    with pytest.raises(AttributeError, match="Shrig"):
        shirg.Shrig  # noqa: B018


def test_no_name_in_the_folder_shadows_another_package():
    """With PYTHONPATH=./shirg whatever lies directly in shirg/ is a top-level module."""
    inside = {path.stem for path in (ROOT / "shirg").iterdir() if path.suffix == ".py" or path.is_dir()}
    inside -= {"__init__", "__pycache__", "_in_place", *PROMISED}
    installed = {name for name, owners in importlib.metadata.packages_distributions().items() if owners != ["shirg"]}
    assert not inside & set(sys.stdlib_module_names)
    assert not inside & installed


def test_nothing_else_touches_the_path():
    touching = [path for path in (ROOT / "shirg").rglob("*.py") if "sys.path" in path.read_text(encoding="utf-8")]
    assert [path.name for path in touching] == ["_in_place.py"]


def test_console_command_is_declared():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["shirg"].split(":")
    assert callable(getattr(importlib.import_module(module), function))

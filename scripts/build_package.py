"""Build the sdist, and the wheel from it, and look into both: python scripts/build_package.py [FOLDER], default ./dist

Only tracked files go in, from a copy, so nothing that lies about in the checkout is packed and nothing is left in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMISED = (
    "LICENSE",
    "NOTICE",
    "py.typed",
    "demo/page.css",
    "nano/weights/model.safetensors",
    "nano/weights/tokenizer.json",
)
"""Ends of names that the wheel must hold beside the modules; the weights are what works without any download."""


def tracked() -> list[str]:
    """Paths of the checkout's files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def build(folder: Path) -> tuple[Path, Path]:
    """Both files, made in `folder`: (sdist, wheel)."""
    from setuptools import build_meta  # the build backend that pyproject.toml names, without an environment of its own

    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    said = io.StringIO()  # setuptools names every file it touches
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(said):
        for name in tracked():
            target = Path(scratch, "source", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        with contextlib.chdir(Path(scratch, "source")):
            sdist = folder / build_meta.build_sdist(os.fspath(folder))
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        with contextlib.chdir(Path(scratch, sdist.name.removesuffix(".tar.gz"))):
            wheel = folder / build_meta.build_wheel(os.fspath(folder))
    return sdist, wheel


def problems(wheel: Path) -> list[str]:
    """What a wheel lacks of the checkout's package, or has too much."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    inside = {name for name in packed if ".dist-info/" not in name}
    wanted = {name for name in tracked() if name.startswith("shirg/") and (ROOT / name).suffix == ".py"}
    found = [f"{name} is missing" for name in sorted(wanted - inside)]
    found += [f"nothing ends with {end}" for end in PROMISED if not any(name.endswith(end) for name in packed)]
    ours = {name for name in inside if name.startswith("shirg/") and (ROOT / name).is_file()}
    found += [f"{name} is no part of the package" for name in sorted(inside - ours)]
    return found + [f"{name} differs" for name in sorted(ours) if packed[name] != (ROOT / name).read_bytes()]


def main() -> int:
    """The exit code: 1 where the wheel is not what it should be."""
    if len(sys.argv) > 2 or sys.argv[1:2] == ["--help"]:
        print(__doc__)
        return 0 if sys.argv[1:] == ["--help"] else 2
    sdist, wheel = build(Path(sys.argv[1] if sys.argv[1:] else ROOT / "dist"))
    wrong = problems(wheel)
    for line in wrong:
        print(f"{wheel.name}: {line}")
    for path in (sdist, wheel):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

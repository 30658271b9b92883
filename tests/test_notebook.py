"""The notebook runs from its first cell to its last, and says what it is read for."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
from IPython import InteractiveShell
from IPython.utils.capture import capture_output

from tests import forked

SMALLER = {
    "base_dataset_size=24": "base_dataset_size=6",
    "ocr_enhancement_size=8": "ocr_enhancement_size=2",
    "sample_size=10": "sample_size=2, efficiency_repeats=0",
}
"""What is trained and measured on here, and no timing, which no cell shows; every line of every cell still runs."""

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "shirg.ipynb"


def printed(book) -> str:
    """What all cells wrote, in order."""
    outputs = [one for cell in book.cells for one in cell.get("outputs", [])]
    return "".join(one.get("text", "") for one in outputs)


def pictures(book) -> int:
    """How many outputs are pictures."""
    outputs = [one for cell in book.cells for one in cell.get("outputs", [])]
    return sum("image/png" in one.get("data", {}) for one in outputs)


def made_smaller(book) -> None:
    """Put `SMALLER` into the cells; each stands in one of them."""
    for number, fewer in SMALLER.items():
        (cell,) = (one for one in book.cells if number in one.source)
        cell.source = cell.source.replace(number, fewer)


def run_cells(cells: list[str], folder: Path) -> None:
    """Run the cells in `folder`, in order as a kernel does; prints what they print, and last how many pictures they showed."""
    os.chdir(folder)
    shell, shown = InteractiveShell.instance(ipython_dir=str(folder / "ipython")), []
    for cell in cells:
        with shell.display_trap, capture_output() as written:
            result = shell.run_cell(cell)
        print(written.stdout, end="")
        result.raise_error()
        shown += written.outputs
    print(sum("image/png" in one.data for one in shown), "pictures")


def test_it_runs(tmp_path):
    book = nbformat.read(NOTEBOOK, as_version=4)
    shown, drawn = printed(book), pictures(book)
    made_smaller(book)
    ended = forked.run(run_cells, [cell.source for cell in book.cells if cell.cell_type == "code"], tmp_path)
    said = ended.out
    assert ended.code == 0, said + ended.err
    assert (tmp_path / "notebook_run" / "checkpoints" / "best_model" / "adapter_model.safetensors").is_file()
    truth = re.search(r"\(truth: (.*)\)", said)[1]
    assert re.search(rf"^ +768: {re.escape(truth)}$", said, flags=re.MULTILINE), said
    assert re.search(r"^ +shirg-768\+adapter: +\d+\.\d% \[", said, flags=re.MULTILINE), said
    assert said.endswith("\n2 pictures\n")
    # what is stored with it is such a run too
    assert drawn == 2 and re.search(r"\(truth: (.*)\)", shown)[1] == truth
    assert not re.search(r"/(home|root|tmp|work)/", shown)

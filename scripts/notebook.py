"""Run examples/shirg.ipynb anew and store what its cells print and draw: python scripts/notebook.py

Run in a folder of its own. Progress bars and warnings are not stored, nor times, nor anything of the machine.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "shirg.ipynb"


def worth_storing(output: nbformat.NotebookNode) -> bool:
    """What a reader wants to see: text that was printed, and results."""
    return output.get("name") == "stdout" or output.output_type == "execute_result"


def main() -> None:
    """Run, tidy, write."""
    os.environ["PYTHONPATH"] = str(ROOT)
    book = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(book, timeout=1800, record_timing=False, resources=resources).execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if worth_storing(one)]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)  # the PNG is there too
    book.metadata.pop("language_info", None)
    nbformat.write(book, NOTEBOOK)


if __name__ == "__main__":
    main()

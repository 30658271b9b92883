"""Prepare the training data.   python shirg/shirg_dataset_preparation.py --help"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.prepare import main
from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor

__all__ = ["SHIRGDatasetConfig", "SHIRGDatasetProcessor", "main"]

if __name__ == "__main__":
    main()

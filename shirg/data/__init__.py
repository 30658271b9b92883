"""Data: sources, rendered pages, preparation and loading.

A `Record` is one question about one image. `load_benchmark` gives the records of an evaluation set, local, embedded or
from the hub. `SHIRGDatasetProcessor` writes training records to Parquet shards, which `build_loaders` reads back.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shirg.data.loader import RecordDataset, build_loaders, collate
    from shirg.data.order import EpochOrder
    from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
    from shirg.data.records import Record
    from shirg.data.sources import load_benchmark

_HOMES = {
    "EpochOrder": "shirg.data.order",
    "Record": "shirg.data.records",
    "RecordDataset": "shirg.data.loader",
    "SHIRGDatasetConfig": "shirg.data.preparation",
    "SHIRGDatasetProcessor": "shirg.data.preparation",
    "build_loaders": "shirg.data.loader",
    "collate": "shirg.data.loader",
    "load_benchmark": "shirg.data.sources",
}

__all__ = [
    "EpochOrder",
    "Record",
    "RecordDataset",
    "SHIRGDatasetConfig",
    "SHIRGDatasetProcessor",
    "build_loaders",
    "collate",
    "load_benchmark",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'shirg.data' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)

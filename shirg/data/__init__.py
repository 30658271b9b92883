"""Data sets, rendered pages, preparation of training data and loading.

A `Record` is one question about one image. `load_benchmark` returns the records of an evaluation set.
`SHIRGDatasetProcessor` writes training records to Parquet shards; `build_loaders` reads them.

Preparation: `sources` -> `catalogue` (all questions) -> `image_scan` (checksums, near-duplicates) -> `splits` (plan) ->
`record_builder` (workers) -> `shards`, `manifest`. Training: `shards` -> `loader` -> `sampler`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shirg.data.loader import RecordDataset, build_loaders, collate
    from shirg.data.preparation import SHIRGDatasetConfig, SHIRGDatasetProcessor
    from shirg.data.records import Record
    from shirg.data.sampler import EpochOrder
    from shirg.data.sources import load_benchmark

_HOMES = {
    "EpochOrder": "shirg.data.sampler",
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

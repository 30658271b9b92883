"""Configuration of data preparation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from shirg.data.sources.hub import parse_request
from shirg.errors import UserError

Missing = Literal["refuse", "fewer", "render"]
"""What happens where a part's sources hold fewer records than requested."""

_NOT_CONTENT = ("output_dir", "num_workers", "shard_index", "num_shards", "from_hub", "allow_fewer", "render_missing")
"""Fields that the shards do not depend on; `missing` covers the last two."""


@dataclass
class SHIRGDatasetConfig:
    """What to prepare and where. The same configuration and data give the same bytes."""

    base_dataset_size: int = 558_000
    """Records of the base part: LLaVA-Pretrain LCS-558K and `base_json`."""
    ocr_enhancement_size: int = 50_000
    """Records of the OCR part: training parts of the document and chart sets, and `ocr_json`."""
    output_dir: str | Path = "./shirg_dataset"
    """Folder for the shards and the manifest."""
    image_resolution: int = 672
    """Side of rendered pages, pixels; a multiple of 14. Real images keep their size up to `max_image_side`."""
    validation_fraction: float = 0.05
    """Share of the records for the validation split, whole images at a time."""
    seed: int = 0
    """Seed for the choice and order of images, and for rendered pages."""
    data_dir: str | Path | None = None
    """Folder with one folder per data set in the layout of its release (docs/data.md)."""
    shard_size: int = 10_000
    """Records per Parquet file."""
    text_px: tuple[float, float] = (6.0, 28.0)
    """Smallest and largest font size of rendered pages, pixels of the page."""
    num_workers: int | None = None
    """Processes that open and render images; 0 uses this process, None up to two. The result is the same."""
    base_json: tuple[str | Path, ...] = ()
    """Files in LLaVA's format, .json or .jsonl, of any name, added to the base part's sources."""
    ocr_json: tuple[str | Path, ...] = ()
    """The same for the OCR part."""
    allow_fewer: bool = False
    """Take what there is where a part's sources hold fewer records than requested; else that is an error."""
    render_missing: bool = False
    """Fill up with rendered pages instead. Without `data_dir` and json files everything is rendered anyway."""
    exclude_datasets: tuple[str, ...] | None = None
    """Evaluation sets whose images must not be in the data; None excludes every set whose test part is found."""
    exclude_data_dir: str | Path | None = None
    """Another folder to search for evaluation sets, besides `data_dir`."""
    images: Literal["embed", "link"] = "embed"
    """Whether shards hold the image files or their paths. Converted images are always embedded."""
    max_image_side: int = 4096
    """Longer side, pixels, above which a real image is shrunk to it."""
    from_hub: tuple[str, ...] = ()
    """Sets to fetch from the Hugging Face hub into `data_dir` first: a name, or `NAME=FOLDER` for a local copy."""
    shard_index: int = 0
    """Which share of the work this process does, from 0, of `num_shards`."""
    num_shards: int = 1
    """How many processes share the work on one folder; a last run on its own writes the manifest."""

    @property
    def total_samples(self) -> int:
        """Records requested over both parts."""
        return self.base_dataset_size + self.ocr_enhancement_size

    @property
    def sizes(self) -> dict[str, int]:
        """Records requested per part."""
        return {"base": self.base_dataset_size, "ocr": self.ocr_enhancement_size}

    @property
    def missing(self) -> Missing:
        """What happens where a part's sources hold fewer records than requested."""
        only_rendered = self.data_dir is None and not self.base_json and not self.ocr_json
        if only_rendered or self.render_missing:
            return "render"
        return "fewer" if self.allow_fewer else "refuse"

    def check(self) -> None:
        """Validate all fields.

        Raises:
            UserError: names the field, its value and what would work.
        """
        low, high = self.text_px
        side = self.image_resolution
        rules = [
            ("base_dataset_size", self.base_dataset_size >= 0, "0 or more"),
            ("ocr_enhancement_size", self.ocr_enhancement_size >= 0, "0 or more"),
            ("total_samples", self.total_samples >= 1, "at least 1 record in base and OCR part together"),
            ("image_resolution", side > 0 and side % 14 == 0, "a multiple of 14"),
            ("validation_fraction", 0 <= self.validation_fraction < 1, "from 0 to below 1"),
            ("shard_size", self.shard_size >= 1, "at least 1"),
            ("text_px", 4 <= low <= high, "smallest and largest size in pixels, both 4 or more"),
            ("image_resolution", side >= 16 * low, f"at least {16 * low:g}: 16 x the smallest text_px"),
            ("num_workers", self.num_workers is None or self.num_workers >= 0, "0 or more, or None"),
            ("data_dir", _is_folder_or_none(self.data_dir), "an existing folder, or None"),
            ("from_hub", not self.from_hub or self.data_dir is not None, "needs data_dir, where the files are written"),
            ("exclude_data_dir", _is_folder_or_none(self.exclude_data_dir), "an existing folder, or None"),
            ("base_json", all(Path(file).is_file() for file in self.base_json), "existing .json or .jsonl files"),
            ("ocr_json", all(Path(file).is_file() for file in self.ocr_json), "existing .json or .jsonl files"),
            ("allow_fewer", not (self.allow_fewer and self.render_missing), "not together with render_missing"),
            ("images", self.images in ("embed", "link"), "embed or link"),
            ("max_image_side", self.max_image_side >= 64, "at least 64 pixels"),
            ("num_shards", self.num_shards >= 1, "at least 1"),
            ("shard_index", 0 <= self.shard_index < self.num_shards, "from 0 to below num_shards"),
        ]
        for name, holds, advice in rules:
            if not holds:
                value = getattr(self, name)
                shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                raise UserError(f"{name}: {shown}; {advice}")
        for request in self.from_hub:
            parse_request(request)

    def content(self) -> dict[str, Any]:
        """Everything the shards depend on, as JSON values, for the manifest."""
        values = {
            field.name: _as_json(getattr(self, field.name)) for field in fields(self) if field.name not in _NOT_CONTENT
        }
        return values | {"missing": self.missing, "total_samples": self.total_samples}


def _is_folder_or_none(folder: str | Path | None) -> bool:
    return folder is None or Path(folder).is_dir()


def _as_json(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value

"""Configuration of data preparation."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from shirg import ranges
from shirg.errors import UserError
from shirg.settings import Seeded

Missing = Literal["refuse", "fewer", "render"]
"""What happens if a part's sources have fewer records than requested."""

_CONTENT = (
    "base_dataset_size", "ocr_enhancement_size", "image_resolution", "validation_fraction", "seed", "data_dir", "shard_size",
    "text_px", "base_json", "ocr_json", "exclude_datasets", "exclude_data_dir", "images", "max_image_side",
)  # fmt: skip
"""Fields that determine the shards, in the order of the checksum in prepared folders."""

BaseRecords = Annotated[int, ranges.RECORDS, arg(name="dataset_size")]
OcrRecords = Annotated[int, ranges.RECORDS, arg(name="ocr_samples")]
Folder = Annotated[Path | str | None, arg(metavar="DIR", help_behavior_hint="(default: none)")]
Files = Annotated[tuple[Path | str, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="(default: none)")]


@dataclass
class DataSettings(Seeded):
    """Content of the training set, in every command that prepares one."""

    base_dataset_size: BaseRecords = 558_000
    """Records of the general part: an image with one question or caption each, of LLaVA-Pretrain LCS-558K or rendered."""
    ocr_enhancement_size: OcrRecords = 50_000
    """Records of the part that is about reading text, added to the general part."""
    _: KW_ONLY
    data_dir: Folder = None
    """Your data: a folder with one folder per data set (docs/data.md). Without it all pages are rendered."""
    allow_fewer: bool = False
    """Accept fewer records than requested if the data folder has fewer; by default that is an error."""
    render_missing: bool = False
    """Add rendered pages if the data folder has fewer records than requested."""


@dataclass
class SHIRGDatasetConfig(DataSettings):
    """What to prepare and where. The same configuration and data give the same bytes."""

    output_dir: Path | str = "./shirg_dataset"
    """Folder for the shards and the manifest. A stopped run resumes when it is repeated."""
    _: KW_ONLY
    image_resolution: Annotated[int, ranges.RESOLUTION] = 672
    """Pixels per side of rendered pages, a multiple of 14; real images keep their size."""
    text_px: Annotated[tuple[float, float], ranges.TEXT_PX] = (6.0, 28.0)
    """Smallest and largest font size of rendered pages in pixels."""
    base_json: Files = ()
    """Files in LLaVA's format (.json or .jsonl, any name; images in the same folder) to add to the base part."""
    ocr_json: Files = ()
    """The same for the OCR part."""
    from_hub: Annotated[tuple[str, ...], arg(metavar="NAME[=FOLDER] [...]", help_behavior_hint="(default: none)")] = ()
    """Sets to fetch from the Hugging Face hub into the data folder first: chartqa docvqa textvqa ocrvqa; =FOLDER for a
    downloaded copy."""
    exclude_datasets: Annotated[
        tuple[str, ...] | None,
        arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: every set that is found)"),
    ] = None
    """Evaluation sets whose images, and near-duplicates of them, must not be in the training data."""
    exclude_data_dir: Folder = None
    """Another folder to search for evaluation sets, besides the data folder."""
    images: Literal["embed", "link"] = "embed"
    """Store image files in the shards, or only their paths: the shards are small, but the images must not move. Converted
    images are always stored."""
    max_image_side: Annotated[int, ranges.IMAGE_SIDE] = 4096
    """Longer side in pixels; larger real images are shrunk to it."""
    shard_size: Annotated[int, ranges.COUNT] = 10_000
    """Records per shard, a Parquet file."""
    validation_fraction: Annotated[float, ranges.SHARE] = 0.05
    """Share of the records for validation, whole images at a time."""
    num_workers: Annotated[
        int | None, ranges.PROCESSES, arg(metavar="INT", help_behavior_hint="(default: up to 2)")
    ] = None
    """Processes that open and render images; 0 uses this process. The result is the same."""
    shard_index: Annotated[int, ranges.PART] = 0
    """Share of the work of this process, from 0: the task number of a cluster's array job. No shard of --shard-size."""
    num_shards: Annotated[int, ranges.PARTS] = 1
    """Number of processes that share the work on one folder (docs/data.md). The Parquet files do not depend on it."""

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
        """What happens if a part's sources have fewer records than requested."""
        only_rendered = self.data_dir is None and not self.base_json and not self.ocr_json
        if only_rendered or self.render_missing:
            return "render"
        return "fewer" if self.allow_fewer else "refuse"

    def check(self) -> None:
        """Validate all fields.

        Raises:
            UserError: names the field, its value and what would work.
        """
        from shirg.data.sources.hub import parse_request

        ranges.check_fields(self)
        low, high = self.text_px
        rules = [
            ("total_samples", self.total_samples >= 1, "at least 1 record in base and OCR part together"),
            ("text_px", low <= high, "the smallest size first"),
            (
                "image_resolution",
                self.image_resolution >= 16 * low,
                f"at least {16 * low:g}: 16 x the smallest text_px",
            ),
            ("data_dir", _is_folder_or_none(self.data_dir), "an existing folder, or None"),
            ("from_hub", not self.from_hub or self.data_dir is not None, "needs data_dir, where the files are written"),
            ("exclude_data_dir", _is_folder_or_none(self.exclude_data_dir), "an existing folder, or None"),
            ("base_json", all(Path(file).is_file() for file in self.base_json), "existing .json or .jsonl files"),
            ("ocr_json", all(Path(file).is_file() for file in self.ocr_json), "existing .json or .jsonl files"),
            ("allow_fewer", not (self.allow_fewer and self.render_missing), "not together with render_missing"),
            ("shard_index", self.shard_index < self.num_shards, "from 0 to below num_shards"),
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
        return {name: _as_json(getattr(self, name)) for name in _CONTENT} | {
            "missing": self.missing,
            "total_samples": self.total_samples,
        }


def _is_folder_or_none(folder: str | Path | None) -> bool:
    return folder is None or Path(folder).is_dir()


def _as_json(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value

"""`shirg select IMAGE_OR_FOLDER`: draw which patches of a page, or of every page of a folder, are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from tyro.conf import Positional, arg

from shirg import ranges
from shirg.cli.flags import AdaptedModelFlags, SelectorFlags
from shirg.cli.runner import run_command
from shirg.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from shirg.gate import Kept
    from shirg.lavida import Lavida

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Names of images in a folder; the format is detected from the content."""
DRAWN = ".kept.png"


@dataclasses.dataclass(kw_only=True)
class Flags(SelectorFlags, AdaptedModelFlags):
    """Draw a page with its kept patches bright, its dropped ones dimmed, and the borders of the clusters.

    For PAGE.png it writes PAGE.kept.png, and PAGE.kept.json with index, row, column and score of every kept patch.
    Of a folder it draws every image, without sub-folders. Unreadable images are listed and skipped; the exit code is
    then 2. An interrupted run leaves complete files only.

    shirg select page.png --budget 512 --question "What is the total?"

    shirg select scans/ --selector visionzip --output-dir visionzip/
    """

    image: Positional[Annotated[Path, arg(metavar="IMAGE|FOLDER")]]
    """A PNG, JPEG, GIF, WebP, BMP, TIFF or PPM file, or a folder of them."""

    budget: Annotated[int | Literal["auto"], ranges.BUDGET, arg(metavar="INT|auto")] = 768
    """Patches to keep, 1 to all, or auto: as many as the page's print needs, 64 to 1024. One more token is the mean of the
    others."""

    question: str = ""
    """Question for the relevance term; without it the page alone decides."""

    output_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the image's folder)")] = None
    """Folder for pictures and JSON files."""


def command(flags: Flags) -> None:
    """Select, draw, and print what was kept."""
    from rich.console import Console

    from shirg.cli.models import load_model
    from shirg.files import check_writable
    from shirg.lavida.vision import check_budget

    pages = find_pages(flags.image)
    if flags.output_dir is not None:
        check_writable(flags.output_dir)
    model = load_model(flags, flags.adapter)
    if flags.budget != "auto":
        check_budget(flags.budget, (model.vision.resolution // model.tower.patch_size) ** 2)
    question_ids = model.question_ids(model.prompt_ids(flags.question)) if flags.question else None
    if not flags.image.is_dir():
        summary = draw_page(model, flags.image, output_of(flags.image, pages, flags.output_dir), question_ids, flags)
        Console(soft_wrap=True).print(summary, highlight=False, markup=False)
        return
    broken = []
    with _progress(len(pages)) as advance:
        for page in pages:
            try:
                draw_page(model, page, output_of(page, pages, flags.output_dir), question_ids, flags)
            except UserError as error:
                broken.append(page.name)
                advance(f"shirg: skipped: {error}")
            else:
                advance(None)
    drawn, where = len(pages) - len(broken), flags.output_dir or flags.image
    Console(soft_wrap=True).print(f"drew {drawn} of {len(pages)} images: {where}", highlight=False, markup=False)
    if broken:
        raise UserError(
            f"{len(broken)} of {len(pages)} images cannot be read: {', '.join(broken)}; the others are drawn"
        )


def find_pages(path: Path) -> list[Path]:
    """The image at `path`, or the images of a folder, sorted by name, without hidden files and pictures of this command.

    Raises:
        UserError: if `path` does not exist, or is a folder without images.
    """
    from shirg.data.images import check_file

    if not path.is_dir():
        check_file(path)
        return [path]
    found = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.name.endswith(DRAWN)
    ]
    if not found:
        raise UserError(f"folder {path}: no image in it; expected names that end in {', '.join(SUFFIXES)}")
    return sorted(found)


def output_of(page: Path, pages: Sequence[Path], folder: Path | None) -> Path:
    """Path of a page's picture: scan.kept.png, or scan.png.kept.png if the folder also has scan.jpg."""
    namesakes = Counter(other.stem.lower() for other in pages)  # some file systems ignore case
    name = page.name if namesakes[page.stem.lower()] > 1 else page.stem
    return (folder or page.parent) / f"{name}{DRAWN}"


def draw_page(model: Lavida, page: Path, output: Path, question_ids: Tensor | None, flags: Flags) -> str:
    """Write the picture and the JSON of one page; returns a line about it.

    Raises:
        UserError: if the image cannot be read.
    """
    from shirg.cli.models import load_image
    from shirg.evaluation.kept_picture import Tally, changed_patches, draw_kept, save_picture
    from shirg.files import write_text

    image = load_image(page)
    features = model.image_features(image, "shirg")
    kept = model.select(features, flags.budget, question_ids)
    by_page = kept if question_ids is None else model.select(features, flags.budget)
    changed = changed_patches(kept, by_page)
    picture = draw_kept(image, kept, features.grid, fit=model.vision.fit, notes=_notes(model, changed, flags))
    save_picture(output, picture)
    value = describe(model, image, page, kept, features.grid, flags) | {"changed_by_question": changed}
    write_text(output.with_suffix(".json"), _one_line_per_key(value))
    return f"{Tally.of(kept).headline()}: {output}"


def describe(
    model: Lavida, image: Image.Image, page: Path, kept: Kept, grid: tuple[int, int], flags: Flags
) -> dict[str, object]:
    """Content of the JSON file. Lists of patches are in raster order; `clusters` and `groups` have the
    number of each patch's cluster and of its output token.

    Row r and column c of a stretched page cover its pixels from c * width / columns and r * height / rows on.
    """
    from shirg.evaluation.kept_picture import Tally

    tally = Tally.of(kept)
    rows, columns = grid
    places = (kept.assignment[0] >= 0).nonzero().flatten()
    return {
        "image": page.name,
        "width": image.width,
        "height": image.height,
        "model": flags.model,
        "adapter": None if flags.adapter is None else str(flags.adapter),
        "resolution": model.vision.resolution,
        "fit": model.vision.fit,
        "grid": {"rows": rows, "columns": columns},
        "selector": model.vision.gate.selector,
        "gate": dataclasses.asdict(model.vision.gate),
        "budget": flags.budget,
        "question": flags.question,
        "relevance": model.vision.relevance if flags.question else "none",
        "relevance_sign": model.vision.relevance_sign,
        "merged": tally.merged,
        "tokens": kept.tokens.shape[1],
        "summary": {"token": tally.summary, "patches": tally.dropped, "share": round(tally.dropped / tally.patches, 4)},
        "indices": places.tolist(),
        "rows": (places // columns).tolist(),
        "columns": (places % columns).tolist(),
        "scores": [round(score, 6) for score in kept.scores[0][places].tolist()],
        "clusters": kept.clusters[0][places].tolist(),
        "groups": kept.assignment[0][places].tolist(),
    }


def _one_line_per_key(value: dict[str, object]) -> str:
    """JSON with one line per key, so that lists of thousands of numbers have one line."""
    lines = (f"  {json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}" for key, part in value.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _notes(model: Lavida, changed: int, flags: Flags) -> list[str]:
    name = "LaViDa-nano" if flags.model == "nano" else Path(flags.model).name
    adapted = "" if flags.adapter is None else f" with adapter {flags.adapter.name}"
    notes = [
        f"Selector {model.vision.gate.selector}, {name}{adapted} at {model.vision.resolution} x {model.vision.resolution} px"
    ]
    if flags.question:
        effect = f"changes {changed:,} patches" if changed else "changes nothing"
        notes.append(f"Question: {flags.question} ({effect})")
    return notes


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str | None], None]]:
    """A progress bar on stderr; yields a function that advances it and prints a given line above it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr, soft_wrap=True)
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("drawing", total=total)

        def advance(line: str | None) -> None:
            if line is not None:
                console.print(line, highlight=False, markup=False)
            bar.update(task, advance=1)

        yield advance


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> NoReturn:
    """Entry point."""
    run_command(command, Flags, argv, prog=prog)

"""The self-checks, one function each, with what was found and what would fix it: `shirg doctor` runs those about the machine
and the files, the component test every part of a model, and `shirg run` lists data, disk and the saved adapter in its report.

Nothing heavy is imported before Python and the packages are checked.
"""

from __future__ import annotations

import dataclasses
import importlib
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from shirg.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table

    from shirg.lavida import Lavida, LavidaConfig
    from shirg.ranges import Budget
    from shirg.training.memory import Step

SHOWN = ("torch", "transformers", "peft", "accelerate", "pillow")

FREE_BYTES = 2 * 10**9
"""Free space wanted for a run: adapters of an 8B model take megabytes, the optimizer's state and page images most of it."""

FULL = "full"
"""The extra with what our own models and the commands need."""

COMPILED = ("torch", "safetensors", "pyarrow")
"""Packages whose libraries can be broken though they are installed."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    good: bool | None
    """None: not checked."""
    found: str
    remedy: str = ""
    """What to do; empty where nothing need be done."""


WORDS = {True: "[green]ok[/]", False: "[red]FAILED[/]", None: "[dim]-[/]"}


def table(title: str, found: Sequence[Finding]) -> Table:
    """Findings as a table that folds in a narrow window; a remedy is in the cell of what was found."""
    from rich.markup import escape
    from rich.table import Table

    made = Table("", "result", "what was found", title=escape(title), box=None, title_justify="left")
    for finding in found:
        text = escape(" ".join(finding.found.split()))
        remedy = f"\n[bold]-> {escape(finding.remedy)}[/]" if finding.remedy else ""
        made.add_row(finding.name, WORDS[finding.good], text + remedy)
    return made


def python_and_packages() -> list[Finding]:
    """This Python against what the release asks for, and every package that it needs."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    asked, texts = asked_for()
    version = platform.python_version()
    good = SpecifierSet(asked).contains(version)
    remedy = "" if good else f"make .venv anew with a Python {asked}: rm -rf .venv; PYTHON=python3.12 make demo"
    asked_of = (
        one for text in texts if (one := Requirement(text)).marker is None or one.marker.evaluate({"extra": FULL})
    )
    needed = {one.name: str(one.specifier) for one in asked_of}  # what the extra asks of a package comes last
    broken = [problem for name, asked in needed.items() if (problem := _package_problem(name, asked))]
    if broken:
        return [Finding("Python", good, f"{version} ({asked})", remedy), *broken]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
    found = f"all {len(needed)} that are needed: {versions} and others"
    return [Finding("Python", good, f"{version} ({asked})", remedy), Finding("packages", True, found)]


def asked_for() -> tuple[str, list[str]]:
    """(versions of Python, requirements) of the code that runs: of the checkout, which need not be installed, or release."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        return table["requires-python"], [*table["dependencies"], *table["optional-dependencies"][FULL]]
    release = metadata.distribution("shirg")
    return release.metadata["Requires-Python"], release.requires or []


def _package_problem(name: str, specifier: str) -> Finding | None:
    from packaging.specifiers import SpecifierSet

    remedy = f'pip install "{name}{specifier}"'
    try:
        version = metadata.version(name)
        if not SpecifierSet(specifier).contains(version, prereleases=True):
            return Finding(name, False, f"{version}, must be {specifier}", remedy)
        if name in COMPILED:
            importlib.import_module(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", remedy)
    except (ImportError, OSError) as error:
        return Finding(name, False, f"cannot be imported: {error}", f"{remedy} --force-reinstall")
    return None


def images() -> Finding:
    """Whether this Pillow resizes to the pixels that the official recordings and published results were made with."""
    from shirg.images import RESIZED, resized_pattern

    version = metadata.version("pillow")
    if resized_pattern() == RESIZED:
        return Finding("images", True, f"pillow {version} resizes pages to the pixels of the recordings")
    found = f"pillow {version} resizes pages to other pixels than the recordings have; results move with them"
    return Finding("images", False, found, 'pip install --force-reinstall "pillow>=12,<14"')


def config(name: str, revision: str | None) -> LavidaConfig:
    """Of a model that is on this machine, or of a shape that is known by name.

    Raises:
        UserError: if it is neither, or its config.json is damaged.
    """
    from shirg.lavida import checkpoint
    from shirg.lavida.config import LavidaConfig, read_config
    from shirg.lavida.shapes import PUBLISHED, published_config

    if name in PUBLISHED:
        return published_config(name)
    folder = checkpoint_folder(name, revision)
    return LavidaConfig.from_dict(read_config(folder), checkpoint.load_tokenizer(folder))


def load(folder: Path) -> Lavida:
    """The model in a folder, every tensor compared with its config, in the files' precision, so that nothing is copied.

    Raises:
        UserError: for what is missing, damaged or does not fit.
    """
    from shirg.lavida import Lavida, checkpoint
    from shirg.lavida.config import read_config
    from shirg.lavida.loading import quiet_libraries

    read_config(folder)  # a folder without it holds no model, whatever else is wrong
    files = checkpoint.weight_files(folder)
    name = next(iter(checkpoint.stored_shapes(files[:1])))
    with quiet_libraries():
        return Lavida.from_pretrained(folder, dtype=checkpoint.stored_dtype(files, name))


def weights(model: Lavida, folder: Path) -> Finding:
    """How much was loaded, and whether there is a tokenizer with it."""
    from shirg.cli.describe import size
    from shirg.lavida.checkpoint import weight_files

    files = weight_files(folder)
    stored = size(sum(file.stat().st_size for file in files))
    count = sum(parameter.numel() for parameter in model.parameters())
    plural = "s" if len(files) > 1 else ""
    found = f"{len(files)} file{plural}, {stored}, {count:,} parameters, {model.config.family} language model"
    if model.tokenizer is None:
        return Finding("weights", False, f"{found}, no tokenizer", f"copy the model's tokenizer files into {folder}")
    return Finding("weights", True, found)


def checkpoint_folder(name: str, revision: str | None) -> Path:
    """The folder of a checkpoint that is on this machine; nothing is downloaded.

    Raises:
        UserError: if it is not here; the message has how to get it.
    """
    from shirg.lavida import checkpoint

    if len(Path(name).parts) != 2 or Path(name).expanduser().is_dir() or name.startswith((".", "~", "/")):
        return checkpoint.resolve(name, revision)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        at = f" --revision {revision}" if revision else ""
        raise UserError(f"{name} is neither a folder here nor in the hub's cache; hf download {name}{at}") from None


def device_and_memory(config: LavidaConfig) -> list[Finding]:
    """Where a run would compute, and whether one training step of the default budgets fits there."""
    import torch

    from shirg.lavida.loading import usual_dtype
    from shirg.training.effort import needs_gpu
    from shirg.training.memory import Step

    on_gpu = torch.cuda.is_available()
    step = Step(dtype=usual_dtype(config.raw), dense_mask=not on_gpu)
    if on_gpu:
        free, total = torch.cuda.mem_get_info()
        gpus = torch.cuda.device_count()
        here = (
            f"{gpus} x {torch.cuda.get_device_name()}, {total / 1e9:.0f} GB each, {free / 1e9:.0f} GB of the first free"
        )
        return [Finding("GPU", True, here), memory(config, step, free)]
    import psutil

    free = psutil.virtual_memory().available
    if not needs_gpu(config):
        none = Finding("GPU", True, "none that torch sees; this model needs none")
        return [none, speed(config), memory(config, step, free)]
    needed = peak(config, dataclasses.replace(step, batch_size=1, checkpointing=True, dense_mask=False))
    remedy = (
        f"train where there is a GPU with {needed / 1e9:.0f} GB or more, with a torch made for it; "
        "answering works here, in minutes per page"
    )
    return [Finding("GPU", False, "none that torch sees", remedy), memory(config, step, free)]


def speed(config: LavidaConfig) -> Finding:
    """Whether the nano's training takes about as long here as in docs/training.md, by the speed of one product."""
    import torch

    from shirg.precision import choose_precision
    from shirg.threads import LEAST_SECONDS, spare_threads
    from shirg.training import effort

    device = torch.device("cpu")
    with spare_threads() as threads:
        threads.adjust(wait=LEAST_SECONDS)
        precision = choose_precision("auto", device)
        reached = effort.UTILISATION * effort.matmul_speed(device, precision.dtype)
        times = effort.times_as_documented(1 / reached, 1.0, config)
        found = f"{precision.reason}; a training step reaches about {reached / 1e9:.0f} GFLOP/s"
        if times <= effort.MUCH_LONGER:
            return Finding("speed", True, found)
        remedy = effort.remedy(config, device, precision, threads.others)
    if threads.others > effort.BUSY:  # not the machine's own speed
        return Finding("speed", None, found, remedy)
    return Finding("speed", False, f"{found}, so that training takes {times:.0f} times as long as documented", remedy)


def memory(config: LavidaConfig, step: Step, free: int) -> Finding:
    """The plainest flags of training whose step fits into `free` bytes."""
    choices = {
        "": step,
        "--gradient-checkpointing": dataclasses.replace(step, checkpointing=True),
        "--gradient-checkpointing --batch-size 1": dataclasses.replace(step, checkpointing=True, batch_size=1),
    }
    needed = {flags: peak(config, choice) for flags, choice in choices.items()}
    for flags, size in needed.items():
        if size <= free:
            found = f"{free / 1e9:.1f} GB free, training needs about {size / 1e9:.1f} GB{' with ' * bool(flags)}{flags}"
            return Finding("memory", True, found)
    least = min(needed.values())
    found = f"{free / 1e9:.1f} GB free, the smallest training step needs about {least / 1e9:.1f} GB"
    return Finding("memory", False, found, f"free some memory, or take a device with {least / 1e9:.0f} GB")


def peak(config: LavidaConfig, step: Step) -> int:
    """Free bytes that training with the default budgets and the pooled path needs, see `TrainingMemory.needed`."""
    from shirg.cli.flags import TrainingFlags
    from shirg.training.budgets import components_of
    from shirg.training.memory import training_memory

    components = components_of(TrainingFlags().token_budgets)
    return max(training_memory(config, one, step).needed for one in components)


def lora(model: Lavida) -> Finding:
    """Whether peft puts a fresh adapter on this model's projector; it is taken off again."""
    from shirg.lavida.adapter import attach_lora, lora_parameters

    attach_lora(model)
    count = sum(parameter.numel() for parameter in lora_parameters(model).values())
    model.unload_adapter()
    return Finding("peft", True, f"{metadata.version('peft')}, {count:,} trainable parameters on mm_projector.0 and .2")


def disk(folder: Path) -> Finding:
    """Whether `folder`, or the place where it would be made, can be written and has room for a run."""
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    remedy = "free some space or choose another --output-dir"
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"shirg")
    except OSError as error:
        return Finding("disk", False, f"{place} cannot be written ({error.strerror})", remedy)
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}, {FREE_BYTES / 1e9:.0f} GB wanted"
    return Finding("disk", free >= FREE_BYTES, found, remedy if free < FREE_BYTES else "")


def data(folder: Path | None) -> Finding:
    """Whether a prepared folder has all its shards, of the right sizes, and its first image opens.

    Raises:
        UserError: if it has no manifest, or a shard or image is damaged.
    """
    if folder is None:
        return Finding("data", None, "not asked for", "--prepared-dir DIR checks what shirg prepare made")
    from shirg.data.loader import RecordDataset
    from shirg.data.manifest import read_manifest

    manifest = read_manifest(folder)
    sizes = {shard["file"]: shard["bytes"] for shard in manifest["shards"]}
    wrong = [
        name for name, size in sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]
    if wrong:
        found = f"{len(wrong)} of {len(sizes)} shards missing or cut short: {', '.join(wrong[:3])}"
        return Finding(
            "data", False, found, f"shirg prepare --output-dir {folder} with its first flags makes them again"
        )
    RecordDataset(folder, "train")[0].open_image()
    found = f"{manifest['total_samples']:,} records in {len(sizes)} shards, the first image opens"
    return Finding("data", True, f"{found}; shirg prepare --check {folder} reads every byte")


def adapter_reloads(
    trained: Lavida, load_base: Callable[[], Lavida], folder: Path, image: Image.Image, budgets: Iterable[Budget]
) -> Finding:
    """Load the saved adapter onto a fresh base and compare what it makes of a page, number for number.

    Args:
        trained: the model whose adapter was saved to `folder`.
        load_base: gives a fresh copy of the base model, for example `lambda: Lavida.from_pretrained("nano")`.
        folder: the saved adapter.
        image: any page.
        budgets: token budgets to compare at.
    """
    import torch

    try:
        fresh = load_base()
        fresh.load_adapter(folder)
    except UserError as error:
        return Finding("save and load", False, str(error))
    was_training = trained.training
    trained.eval(), fresh.eval()
    with torch.no_grad():
        worst = max(_difference(trained, fresh, image, budget) for budget in budgets)
    trained.train(was_training)
    return Finding("save and load", worst == 0.0, f"largest difference of an image embedding {worst:g}")


def _difference(one: Lavida, other: Lavida, image: Image.Image, budget: Budget) -> float:
    pair = [model.encode_images([image], mode="shirg", budget=budget)[0].float() for model in (one, other)]
    return (pair[0] - pair[1]).abs().max().item()

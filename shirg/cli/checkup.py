"""Self-checks, one function each; a check returns a `Finding` with its remedy.

`shirg doctor` checks the machine and the files, the component test checks every part of a model, and `shirg run` lists data, disk
and the saved adapter in its report. Only the standard library is imported before Python and the packages are checked.
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
"""Free disk space for a run, mostly for page images and the optimizer's state."""

FULL = "full"
"""The extra with what our own models and the commands need."""

COMPILED = ("torch", "safetensors", "pyarrow")
"""Packages with compiled libraries, whose import can fail although they are installed."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Result of a check."""

    name: str
    good: bool | None
    """None: not checked."""
    found: str
    remedy: str = ""
    """What to do; empty if nothing has to be done."""


RESULTS = {True: "[green]ok[/]", False: "[red]FAILED[/]", None: "[dim]-[/]"}


def table(title: str, found: Sequence[Finding]) -> Table:
    """Findings as a table that wraps in a narrow window; a remedy is in the cell of its finding."""
    from rich.markup import escape
    from rich.table import Table

    made = Table("", "result", "what was found", title=escape(title), box=None, title_justify="left")
    for finding in found:
        text = escape(" ".join(finding.found.split()))
        remedy = f"\n[bold]-> {escape(finding.remedy)}[/]" if finding.remedy else ""
        made.add_row(finding.name, RESULTS[finding.good], text + remedy)
    return made


def python_and_packages() -> list[Finding]:
    """Whether Python and every required package have the versions that the release requires."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python, texts = requirements()
    version = platform.python_version()
    good = SpecifierSet(python).contains(version)
    remedy = "" if good else f"recreate .venv with Python {python}: rm -rf .venv; PYTHON=python3.12 make demo"
    required = (
        one for text in texts if (one := Requirement(text)).marker is None or one.marker.evaluate({"extra": FULL})
    )
    needed = {one.name: str(one.specifier) for one in required}  # the extra's own requirement comes last
    broken = [problem for name, wanted in needed.items() if (problem := _package_problem(name, wanted))]
    if broken:
        return [Finding("Python", good, f"{version} ({python})", remedy), *broken]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
    found = f"all {len(needed)} required packages: {versions} and others"
    return [Finding("Python", good, f"{version} ({python})", remedy), Finding("packages", True, found)]


def requirements() -> tuple[str, list[str]]:
    """(Python versions, package requirements) of the checkout that is running, else of the installed release."""
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
    """Whether this Pillow resizes images to the pixels of the recorded official outputs."""
    from shirg.images import RESIZED, resized_pattern

    version = metadata.version("pillow")
    if resized_pattern() == RESIZED:
        return Finding("images", True, f"pillow {version} resizes images to the pixels of the recordings")
    found = f"pillow {version} resizes images to other pixels than in the recordings; results will differ"
    return Finding("images", False, found, 'pip install --force-reinstall "pillow>=12,<14"')


def config(name: str, revision: str | None) -> LavidaConfig:
    """Configuration of a model on this machine, or of a published shape.

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
    """The model in a folder, in the precision of its files; every tensor is compared with the config.

    Raises:
        UserError: if something is missing, damaged or does not fit.
    """
    from shirg.lavida import Lavida, checkpoint
    from shirg.lavida.config import read_config
    from shirg.lavida.loading import quiet_libraries

    read_config(folder)  # first: a folder without it is no model
    files = checkpoint.weight_files(folder)
    name = next(iter(checkpoint.stored_shapes(files[:1])))
    with quiet_libraries():
        return Lavida.from_pretrained(folder, dtype=checkpoint.stored_dtype(files, name))


def weights(model: Lavida, folder: Path) -> Finding:
    """Size of the weights, and whether the folder has a tokenizer."""
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
        UserError: if it is not on this machine; the message has the download command.
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
        raise UserError(f"{name} is neither a local folder nor in the hub's cache; hf download {name}{at}") from None


def device_and_memory(config: LavidaConfig) -> list[Finding]:
    """The device of a run, and whether a training step with the default budgets fits into its memory."""
    import torch

    from shirg.lavida.loading import usual_dtype
    from shirg.training.effort import needs_gpu
    from shirg.training.memory import Step

    on_gpu = torch.cuda.is_available()
    step = Step(dtype=usual_dtype(config.raw), dense_mask=not on_gpu)
    if on_gpu:
        free, total = torch.cuda.mem_get_info()
        gpus = torch.cuda.device_count()
        device = (
            f"{gpus} x {torch.cuda.get_device_name()}, {total / 1e9:.0f} GB each, {free / 1e9:.0f} GB of the first free"
        )
        return [Finding("GPU", True, device), memory(config, step, free)]
    import psutil

    free = psutil.virtual_memory().available
    if not needs_gpu(config):
        none = Finding("GPU", True, "torch finds none; this model needs none")
        return [none, speed(config), memory(config, step, free)]
    needed = peak(config, dataclasses.replace(step, batch_size=1, checkpointing=True, dense_mask=False))
    remedy = (
        f"train on a GPU with {needed / 1e9:.0f} GB or more, with a torch build for it; "
        "answering works on this machine, in minutes per page"
    )
    return [Finding("GPU", False, "torch finds none", remedy), memory(config, step, free)]


def speed(config: LavidaConfig) -> Finding:
    """Whether the nano trains about as fast here as docs/training.md states, from the speed of one matrix product."""
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
    if threads.others > effort.BUSY:  # slow because of other programs
        return Finding("speed", None, found, remedy)
    return Finding("speed", False, f"{found}, so training takes {times:.0f} times as long as documented", remedy)


def memory(config: LavidaConfig, step: Step, free: int) -> Finding:
    """The first training flags of a list whose step fits into `free` bytes."""
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
    return Finding("memory", False, found, f"free some memory, or use a device with {least / 1e9:.0f} GB")


def peak(config: LavidaConfig, step: Step) -> int:
    """Free memory in bytes for training with the default budgets and the pooled path, see `TrainingMemory.needed`."""
    from shirg.cli.flags import TrainingFlags
    from shirg.training.budgets import components_of
    from shirg.training.memory import training_memory

    components = components_of(TrainingFlags().token_budgets)
    return max(training_memory(config, one, step).needed for one in components)


def lora(model: Lavida) -> Finding:
    """Whether peft attaches a new adapter to this model's projector; it is removed again."""
    from shirg.lavida.adapter import attach_lora, lora_parameters

    attach_lora(model)
    count = sum(parameter.numel() for parameter in lora_parameters(model).values())
    model.unload_adapter()
    return Finding("peft", True, f"{metadata.version('peft')}, {count:,} trainable parameters on mm_projector.0 and .2")


def disk(folder: Path) -> Finding:
    """Whether `folder`, or its nearest existing parent, can be written and has free space for a run."""
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    remedy = "free some space or choose another --output-dir"
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"shirg")
    except OSError as error:
        return Finding("disk", False, f"{place} cannot be written ({error.strerror})", remedy)
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free at {place}, a run needs {FREE_BYTES / 1e9:.0f} GB"
    return Finding("disk", free >= FREE_BYTES, found, remedy if free < FREE_BYTES else "")


def data(folder: Path | None) -> Finding:
    """Whether a prepared folder has all its shards in their recorded sizes, and its first image opens.

    Raises:
        UserError: if it has no manifest, or a shard or image is damaged.
    """
    if folder is None:
        return Finding("data", None, "no --prepared-dir", "--prepared-dir DIR checks a folder of shirg prepare")
    from shirg.data.loader import RecordDataset
    from shirg.data.manifest import read_manifest

    manifest = read_manifest(folder)
    sizes = {shard["file"]: shard["bytes"] for shard in manifest["shards"]}
    wrong = [
        name for name, size in sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]
    if wrong:
        found = f"{len(wrong)} of {len(sizes)} shards missing or truncated: {', '.join(wrong[:3])}"
        return Finding(
            "data", False, found, f"shirg prepare --output-dir {folder} with the same flags as before writes them again"
        )
    RecordDataset(folder, "train")[0].open_image()
    found = f"{manifest['total_samples']:,} records in {len(sizes)} shards, the first image opens"
    return Finding("data", True, f"{found}; shirg prepare --check {folder} reads every byte")


def adapter_reloads(
    trained: Lavida, load_base: Callable[[], Lavida], folder: Path, image: Image.Image, budgets: Iterable[Budget]
) -> Finding:
    """Load the saved adapter into a newly loaded base model and compare the embeddings of a page exactly.

    Args:
        trained: the model whose adapter was saved to `folder`.
        load_base: loads another copy of the base model, for example `lambda: Lavida.from_pretrained("nano")`.
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

"""The bar that shows a run on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Steps done and to do, loss, rate, ratio and speed; on standard error; shows nothing when `shown` is False."""

    def __init__(self, total_steps: int, done: int, *, shown: bool):
        columns = [
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
        ]
        self.bar = RichProgress(*columns, console=Console(stderr=True), disable=not shown)
        self.task = self.bar.add_task("training", total=total_steps, completed=done, line="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_error) -> None:
        self.bar.stop()

    def step(self, entry: dict) -> None:
        """Show one optimizer step, given as its line of `metrics.jsonl`."""
        loss = "-" if entry["loss"] is None else f"{entry['loss']:.4f}"
        speed = entry["tokens"] / max(entry["seconds"], 1e-9)
        line = f"loss {loss}  lr {entry['lr']:.2e}  ratio {entry['budget']}  {speed:,.0f} tokens/s"
        self.bar.update(self.task, completed=entry["step"], line=line)

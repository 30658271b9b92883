"""Part "train" of `full_size.py`: the training step, from an image's bytes to the adapter's update.

Answers of 32 tokens behind a prompt of 64, LoRA of rank 16 on the projector, bfloat16 with autocast, AdamW: the trainer's own
loss, wrapped as the trainer wraps it. Two parts are timed: the look of the tower at one image, which comes once for every new
image, and the step from there. Records per micro-batch are about different images. Not in it: reading and cutting images
(workers do that meanwhile), and between cards the exchange of the adapter's gradients (860 KB).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import cached_property

import torch
from full_size_clock import Clock, floor
from full_size_model import FIRST_WORD, LAST_WORD, Size, look, random_model, random_prompt, random_views

from shirg.lavida import Lavida, VisionFeatures
from shirg.lavida.adapter import attach_lora, lora_parameters
from shirg.lavida.costs import block_weights, path_tokens
from shirg.training.budgets import Component, components_of
from shirg.training.effort import micro_batch_flops
from shirg.training.loss_model import Example, LossModel, draw_mask
from shirg.training.memory import Step, training_memory

DTYPE = "bfloat16"
RECOMPILE_LIMIT = 64
"""Kernels that torch.compile may make of attention before it falls back to plain matrices without a word; its default is 8."""
SAMPLES, CARDS_USED = 608_000, 8
LIMIT_BYTES = 40 * 10**9

OBJECTIVES = {"packed": "packed", "two-copy": "prefix"}
"""Name in the rows -> `LossModel`'s."""

ASSUMPTIONS = (
    f"hours_for_all: {SAMPLES:,} samples, each with an image that is new, on {CARDS_USED} cards like this one that never wait"
    " for data or for each other: samples / cards / micro-batch * (look of that many images + step). One epoch of one"
    " component; a run that draws its components evenly takes the mean over them.",
    f"under 40 GB: {LIMIT_BYTES:,} bytes, against what the allocator took at the peak; the CUDA context comes on top.",
)


@dataclass(frozen=True)
class Case:
    """One kind of step."""

    objective: str
    component: Component
    micro_batch: int
    checkpointing: bool

    @property
    def key(self) -> str:
        how = "checkpointed" if self.checkpointing else "plain"
        return f"{self.objective} {self.component} x{self.micro_batch} {how}"


class TrainPart:
    """The training steps' rows."""

    def __init__(self, size: Size, clock: Clock):
        self.size, self.clock = size, clock
        self.config = size.flat_config

    @property
    def cases(self) -> list[Case]:
        """All rows, the main budget first; small steps before large ones, so that what fits is known early."""
        main = self.size.main_budget
        components = sorted(components_of(self.size.budgets), key=lambda one: one.budget != main)
        return [
            Case(objective, component, micro_batch, checkpointing)
            for component in components
            for micro_batch in self.size.micro_batches
            for objective in OBJECTIVES
            for checkpointing in (False, True)
        ]

    @cached_property
    def model(self) -> Lavida:
        """Frozen, with nothing attached."""
        return random_model(self.config, self.clock.device, getattr(torch, DTYPE))

    def measure(self, case: Case) -> dict:
        """One row. Where attention's kernel, compiled for changing lengths, fails, once more with one for this length."""
        from torch._dynamo import config
        from torch._dynamo.utils import counters

        with config.patch(recompile_limit=RECOMPILE_LIMIT):
            row = self._with_adapter(case, final=False)
            anew = row is None
            if anew:
                torch.compiler.reset()
                self.clock.release()
                row = self._with_adapter(case, final=True)
        return {**row, "compiled_anew": anew, "compiled_graphs": counters["stats"]["unique_graphs"]}

    def _with_adapter(self, case: Case, *, final: bool) -> dict | None:
        """A row on a fresh adapter and optimizer; None where something failed and it was not the `final` try."""
        attach_lora(self.model)
        try:
            return self._measure(case)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            if final:
                raise
            traceback.print_exc()
            return None
        finally:
            self.model.language.set_gradient_checkpointing(False)
            self.model.eval()
            self.model.unload_adapter()

    def _measure(self, case: Case) -> dict:
        model, size, clock = self.model, self.size, self.clock
        model.mm_projector.train()  # as the trainer does: dropout in the adapter, checkpoints in the blocks
        model.language.set_gradient_checkpointing(case.checkpointing)
        model.language.train(case.checkpointing)
        path = case.component.path
        views = random_views(self.config, path, clock.device)
        loss_model = LossModel(model, OBJECTIVES[case.objective])
        optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-4, weight_decay=0.0)
        processed: list[int] = []

        def look_once() -> VisionFeatures:
            with torch.autocast(clock.device.type, getattr(torch, DTYPE)):
                return look(model, views, path)

        examples = self._examples(look_once(), case.micro_batch)

        def step() -> None:
            with torch.autocast(clock.device.type, getattr(torch, DTYPE)):
                losses, tokens = loss_model(examples, case.component)
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            processed[:] = [tokens]

        peak = clock.peak(step)
        timed = clock.time(step, warm_up=size.runs.warm_up, runs=size.runs.train)
        looked = clock.time(look_once, warm_up=size.runs.warm_up, runs=size.runs.train)
        return {**self._shape(case), **self._result(case, peak, timed, looked, processed[0])}

    def _examples(self, features: VisionFeatures, count: int) -> list[Example]:
        """Records about images of their own, whose features are one and the same to the arithmetic."""
        prompt = random_prompt(self.config, self.size.text_tokens)
        draws = torch.Generator().manual_seed(3)
        length = self.size.answer_tokens
        return [
            Example(
                record_id=str(number),
                image_id=str(number),
                features=features,
                prompt=prompt,
                question=self.model.question_ids(prompt),
                target=torch.randint(FIRST_WORD, LAST_WORD, (length,), generator=draws),
                answer=length,
                masked=draw_mask(length, 0, number),
            )
            for number in range(count)
        ]

    def _step(self, case: Case) -> Step:
        return Step(
            batch_size=case.micro_batch,
            prompt_tokens=self.size.text_tokens,
            answer_tokens=self.size.answer_tokens,
            objective=OBJECTIVES[case.objective],
            checkpointing=case.checkpointing,
            dtype=DTYPE,
            dense_mask=not self.clock.cuda,
        )

    def _shape(self, case: Case) -> dict:
        tokens = case.component.tokens(path_tokens(self.config, "hd"))
        rows, length = self._step(case).rows(tokens)
        return {
            "objective": case.objective,
            "ratio": case.component.name,
            "visual_tokens": tokens,
            "micro_batch": case.micro_batch,
            "checkpointing": case.checkpointing,
            "dtype": DTYPE,
            "rows": rows,
            "row_tokens": length,
        }

    def _result(self, case: Case, peak: dict, timed: dict, looked: dict, tokens: int) -> dict:
        """What follows from the times."""
        step = self._step(case)
        whole_ms = timed["median_ms"] + case.micro_batch * looked["median_ms"]
        body = self.config.body.num_layers * block_weights(self.config) * getattr(torch, DTYPE).itemsize
        flops = micro_batch_flops(self.config, case.component, step)
        return {
            "step": timed,
            "look_per_image": looked,
            "language_tokens": tokens,
            "tokens_per_second": round(tokens / whole_ms * 1e3, 1),
            "samples_per_second": round(case.micro_batch / whole_ms * 1e3, 3),
            "hours_for_all": round(SAMPLES / CARDS_USED / case.micro_batch * whole_ms / 3.6e6, 3),
            **peak,
            "peak_bytes_computed": training_memory(self.config, case.component, step).total,
            # The look and both passes; weights once a pass, once more where blocks are computed again
            "floor": floor(self.clock.device_name, (3 if case.checkpointing else 2) * body, flops),
        }


def summary(rows: list[dict]) -> dict:
    """Per objective, component and way: the largest micro-batch under 40 GB, and the hours at the fastest under it.

    Rows without memory (no CUDA device, or out of memory) are not under it.
    """
    found: dict[str, dict] = {}
    for row in rows:
        reserved = row.get("reserved_bytes")
        if isinstance(reserved, int) and reserved <= LIMIT_BYTES:
            key = f"{row['objective']} {row['ratio']} {'checkpointed' if row['checkpointing'] else 'plain'}"
            best = found.setdefault(key, {"largest_micro_batch": 0, "least_hours": row["hours_for_all"]})
            best["largest_micro_batch"] = max(best["largest_micro_batch"], row["micro_batch"])
            best["least_hours"] = min(best["least_hours"], row["hours_for_all"])
    return found

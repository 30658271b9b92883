"""HTML of the demo: the picture of a page, answers during denoising, and costs.

Pictures are embedded in the HTML, so that no file is written and no other session can request them.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from shirg.demo.reading import Costs, EncodedPage, Selected, Step
from shirg.evaluation.kept_picture import Tally
from shirg.lavida.progress import Span

TITLES = {"shirg": "Answer from the kept patches", "lowres": "The same model at 384 pixels"}
"""Path -> heading of its answer."""


def escaped(text: str) -> str:
    """Text as HTML, which is also safe in gradio's templates."""
    for sign in "{}$`":
        text = text.replace(sign, f"\0{ord(sign)};")
    return html.escape(text).replace("\0", "&#")


def data_uri(image: Image.Image) -> str:
    """The picture as a JPEG data URI for an `img`."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(page: EncodedPage, chosen: Selected, drawn: Image.Image, *, question: str, groups: bool) -> str:
    """The page with its patches, their number and a legend."""
    tally = Tally.of(chosen.kept)
    facts = [part for part in (tally.details(), f"chosen in {chosen.gate_ms:.1f} ms") if part]
    if question:
        effect = f"changes {chosen.changed:,} patches" if chosen.changed else "changes nothing"
        facts.append(f"the question {effect}")
    if groups and not tally.grouped:
        facts.append("this selector makes no groups")
    shown = [(label, kind) for label, kind in _legend(tally, groups=groups)]
    alt = f"{page.name}: {tally.headline()}. {'; '.join(label for label, _ in shown)}."
    keys = "".join(f'<li><i class="swatch {kind}"></i>{escaped(label)}</li>' for label, kind in shown)
    return (
        f'<figure class="shirg-page"><img alt="{escaped(alt)}" width="{drawn.width}" height="{drawn.height}"'
        f' src="{data_uri(drawn)}"><figcaption><strong>{escaped(tally.headline())}</strong>'
        f'<span>{escaped("; ".join(facts))}</span><ul class="legend">{keys}</ul></figcaption></figure>'
    )


def plain_figure(name: str, canvas: Image.Image, budget: int) -> str:
    """A page without its patches, of which only a server knows."""
    return (
        f'<figure class="shirg-page"><img alt="{escaped(name)}" width="{canvas.width}" height="{canvas.height}"'
        f' src="{data_uri(canvas)}"><figcaption><strong>{budget:,} patches kept by the server</strong></figcaption></figure>'
    )


def _legend(tally: Tally, *, groups: bool) -> list[tuple[str, str]]:
    if groups and tally.grouped and not tally.merged:
        return [("one colour per cluster", "grouped")]
    entries = []
    if tally.alone:
        entries.append(("bright: a token of its own" if tally.merged else "bright: kept", "bright"))
    if tally.merged and tally.alone < tally.outputs:
        entries.append(("one colour per merged token", "grouped"))
    if tally.dropped:
        entries.append((f"grey: {'in the summary token' if tally.summary else 'dropped'}", "dim"))
    return entries


def answer_card(path: str, step: Step | None, *, running: bool = False) -> str:
    """An answer: its tokens during denoising, with masks as boxes, then its text."""
    if step is None:
        body = '<p class="quiet">encoding the page</p>' if running else '<p class="quiet">Ask a question.</p>'
        return _card(path, body, "")
    if step.text is None:
        return _card(path, f'<p class="tokens">{"".join(map(_tokens, step.spans))}</p>', f"step {step.number}")
    text = escaped(step.text) or '<span class="quiet">(nothing)</span>'
    return _card(path, f'<p class="text" role="status">{text}</p>', f"{step.number} steps")


def _card(path: str, body: str, steps: str) -> str:
    return (
        f'<section class="answer {path}"><h3>{TITLES[path]}</h3>{body}'
        f'<p class="steps" data-path="{path}">{steps or "&nbsp;"}</p></section>'
    )


def _tokens(span: Span) -> str:
    if span.state == "masked":
        return '<i class="mask"></i>' * span.tokens
    if span.state in ("special", "new-special"):
        return '<i class="end"></i>' * span.tokens
    return f'<span class="{span.state}">{escaped(span.text)}</span>'


def printed_answer(answer: str | None) -> str:
    """The answer printed on the page, if it is known."""
    return "" if answer is None else f'<p class="truth">Printed on the page: <strong>{escaped(answer)}</strong></p>'


def costs_table(shirg: Costs | None, lowres: Costs | None) -> str:
    """Costs of both answers in columns; "..." before they are measured."""
    if shirg is None and lowres is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{label}</th>{"".join(f"<td>{_cell(costs, row)}</td>" for costs in (shirg, lowres))}</tr>'
        for row, label in enumerate(COSTS)
    )
    return (
        '<table class="costs"><thead><tr><th scope="col">One run each, not a benchmark</th><th scope="col">kept patches</th>'
        f'<th scope="col">384 pixels</th></tr></thead><tbody>{rows}</tbody></table>'
    )


COSTS = (
    "Visual tokens",
    "Tower",
    "Gate",
    "Prefill: page and question",
    "Denoising, all steps",
    "Total",
    "KV cache",
)
"""The rows of the table of costs, as `_cells` fills them."""


def _cell(costs: Costs | None, row: int) -> str:
    return "..." if costs is None else _cells(costs)[row]


def _cells(costs: Costs) -> Sequence[str]:
    return (
        f"{costs.tokens:,}",
        f"{costs.tower_ms:,.0f} ms",
        "-" if costs.gate_ms is None else f"{costs.gate_ms:.1f} ms",
        f"{costs.prefill_ms:,.0f} ms",
        f"{costs.denoise_ms:,.0f} ms",
        f"{costs.seconds:.2f} s",
        f"{costs.kv_bytes / 1e6:,.2f} MB",
    )

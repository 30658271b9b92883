"""Stages two and three: projector and language model learn to answer from what the tower sees, then all learn together.

Six questions share one pass over their page. Each question's branch attends to the page and itself; both complementary noisy
copies of its answer attend to the page, the question and themselves. The page attends to itself and the *first* branch's
question, because at inference LaViDa's prefix is one block in which image and question attend to each other.

Finding a value on a page takes several steps (which label is asked, where is it, what is next to it, which character of that
comes next), and a loss on the last step alone leaves small models on a plateau for hours. So a few attention heads have targets,
which are known because the recipe draws the pages; their weight in the loss decreases to zero before training ends.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from shirg.lavida.config import BodyConfig
from shirg.lavida.diffusion.noise import forward_process, sample_times
from shirg.lavida.language import LanguageModel, rotary_tables
from shirg.lavida.pooling import pool_views
from shirg.nano.recipe.geometry import LANGUAGE, POSITIONS, VISION
from shirg.nano.recipe.glyphs import PATCH
from shirg.nano.recipe.lessons import CENTRE_OF, PATCHES, POOLED, Lessons, collate
from shirg.nano.recipe.stage import Curve, Stage, batches, optimizer_step, optimizers
from shirg.nano.recipe.tokenizer import END, MASK, USER, build_tokenizer, id_of
from shirg.nano.recipe.tower import GlyphHeads, encode, new_tower

GUIDED_HEADS = 2
NAME_LAYER, KEY_LAYER, PLACE_LAYER = 1, 2, 3
MOST_BLANKS = 64  # shown of a page's blank patches; each represents several
TOWER_GROUPS = 7  # of views with about as many patches to be seen
SPARE_BLANKS = 4  # at least, of every view that has some
PADDING_WEIGHT, PADDING = (
    0.1,
    2,
)  # end-of-text padding is soon known; at most so many tokens of it follow the longest answer
WHOLE = 0.9  # share of a stage's time after which every token is shown and the tower rests


class Reader(nn.Module):
    """Tower, projector and language model, put together as LaViDa is, with the training pass of this recipe."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.mask_id, self.end_id, self.user_id = (id_of(self.tokenizer, token) for token in (MASK, END, USER))
        width = LANGUAGE["d_model"]
        self.tower = new_tower()
        self.glyph_heads = GlyphHeads(VISION["hidden_size"], len(self.tokenizer))
        self.mm_projector = nn.Sequential(nn.Linear(VISION["hidden_size"], width), nn.GELU(), nn.Linear(width, width))
        self.language = LanguageModel(
            BodyConfig(
                family="llada",
                hidden_size=width,
                intermediate_size=LANGUAGE["mlp_hidden_size"],
                num_layers=LANGUAGE["n_layers"],
                num_heads=LANGUAGE["n_heads"],
                num_kv_heads=LANGUAGE["n_kv_heads"],
                vocab_size=len(self.tokenizer),
                rope_theta=LANGUAGE["rope_theta"],
                rms_norm_eps=LANGUAGE["rms_norm_eps"],
            )
        )
        nn.init.normal_(self.language.embed_tokens.weight, std=0.5)

    def see(self, pixels: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Raw tower output [R, D] of single patches of views, uint8 [B, V, 384, 384, 3], and their numbers [R] among all
        B * V * 729.

        The tower reads as well with the other blank patches as without them, so leaving them out saves most of the work. Views
        with about as many patches to be seen share a pass, which shows all of them as many, filled up with blank ones.

        Args:
            shown: Boolean [B, V * 729], patches that must be seen.
        """
        embeddings, side = self.tower.embeddings, POSITIONS * PATCH
        patches = (
            pixels.flatten(0, 1)[:, :side, :side].unflatten(1, (POSITIONS, PATCH)).unflatten(3, (POSITIONS, PATCH))
        )
        patches = patches.transpose(2, 3).reshape(-1, PATCH * PATCH * 3)  # [B * V * 729, 588]
        kernel = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)  # like pixels: row, column, colour
        shown = shown.view(-1, PATCHES)
        seen, rows = [], []
        for views in shown.sum(1).argsort().chunk(TOWER_GROUPS):
            most = min(PATCHES, int(shown[views].sum(1).max()) + SPARE_BLANKS)
            kept = shown[views].byte().argsort(dim=1, descending=True, stable=True)[:, :most].sort(1).values
            numbers = views[:, None] * PATCHES + kept
            embedded = F.linear(patches[numbers].float() / 127.5 - 1.0, kernel, embeddings.patch_embedding.bias)
            embedded = embedded + embeddings.position_embedding.weight[kept]
            seen.append(encode(self.tower, embedded).flatten(0, 1))
            rows.append(numbers.flatten())
        return torch.cat(seen), torch.cat(rows)

    def image_tokens(self, seen: Tensor, rows: Tensor, inked: Tensor) -> Tensor:
        """Projected tokens [B, M, H] of what `see` returns: all patches of a page, LaViDa's pooled tokens of tiles.

        Patches that were not seen become the mean of their view's blank ones.
        """
        projected = self.mm_projector(seen).float()
        views = inked.shape[1] // PATCHES
        if views * PATCHES * len(inked) == len(rows):
            whole = torch.empty_like(projected).index_copy(0, rows, projected)
        else:
            blank = (~inked.flatten()[rows]).float()[:, None]
            means = projected.new_zeros(inked.numel() // PATCHES, projected.shape[1] + 1)
            means = means.index_add(0, rows // PATCHES, torch.cat([projected * blank, blank], 1))
            means = means[:, :-1] / means[:, -1:].clamp_min(1)
            whole = means.repeat_interleave(PATCHES, 0).index_copy(0, rows, projected)
        whole = whole.view(-1, PATCHES, whole.shape[-1])
        if views > 1:
            whole = pool_views(whole, (POSITIONS, POSITIONS))
        return whole.reshape(len(inked), -1, whole.shape[-1])


def take(tokens: Tensor, kept: Tensor) -> Tensor:
    """Rows `kept` [B, K] of `tokens` [B, N, ...]."""
    index = kept.view(*kept.shape, *[1] * (tokens.ndim - 2)).expand(-1, -1, *tokens.shape[2:])
    return torch.gather(tokens, 1, index)


def keep_tokens(written: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """The image tokens shown to the language model, and how many each of them represents.

    Most of a page is blank. Shown whole it would cost most of the time; left out, blank tokens would be something new when a
    user asks, among which attention is then lost. So a sample of them is shown, and each represents several: attention to it
    counts that often (`Layout.crowd`). All tokens keep the positions that they have in the whole image.

    Args:
        written: Boolean [B, M], tokens that show something.

    Returns:
        Indices [B, K] ascending, and float32 counts [B, K], 1 for written tokens and at least 1 for blank ones, M in sum.
    """
    most, everything = int(written.sum(1).max()), written.shape[1]
    count = min(everything, -(-(most + rng.randint(16, MOST_BLANKS)) // 32) * 32)
    order = torch.rand(written.shape, generator=torch.Generator().manual_seed(rng.getrandbits(32))) + written.cpu()
    kept = order.topk(count).indices.sort().values.to(written.device)
    shown = take(written, kept)
    blank, present = (~written).sum(1, keepdim=True), (~shown).sum(1, keepdim=True)
    return kept, torch.where(shown, 1.0, blank / present.clamp_min(1))


def patches_of(kept: Tensor, inked: Tensor) -> Tensor:
    """Boolean like `inked` [B, N]: patches that the tower must see so that the tokens `kept` [B, K] can be shown, the inked ones
    and one under each of those tokens."""
    shown = inked.clone()
    if inked.shape[1] == PATCHES:
        return shown.scatter_(1, kept, True)
    view, place = kept // POOLED**2, kept % POOLED**2
    centre = torch.tensor(CENTRE_OF, device=kept.device)
    return shown.scatter_(1, view * PATCHES + centre[place // POOLED] * POSITIONS + centre[place % POOLED], True)


@dataclass
class Layout:
    """Who sees whom. S rows of the page, then Q branches of R = P + 2 A rows: a prompt and two copies of its answer.

    `positions` [B, S + Q R]; `crowd` float32 [B, 1, 1, S], log of how many rows each of the page's represents, which is added
    to the attention scores; `page_sees` [B, 1, S, S + P], the page and the first prompt; `branch_sees` [B, 1, Q, R, R], a
    branch's own rows (it sees all of the page besides); True where a row may attend.
    """

    shared: int
    prompt: int
    branch: int
    positions: Tensor
    crowd: Tensor
    page_sees: Tensor
    branch_sees: Tensor


def lay_out(lengths: Tensor, prompt: int, block: int, places: Tensor, counts: Tensor) -> Layout:
    """The layout for prompts of `lengths` [B, Q], padded to `prompt` tokens, answers of `block` tokens, and an image whose rows
    stand at `places` [B, S] and represent `counts` [B, S] rows each."""
    device, shared = lengths.device, counts.shape[1]
    part = torch.tensor([0] * prompt + [1] * block + [2] * block, device=device)
    inner = torch.cat([torch.arange(length, device=device) for length in (prompt, block, block)])
    first = counts.sum(1, keepdim=True).round().long()  # of the prompts' positions
    positions = first[..., None] + inner + (part > 0) * lengths[..., None]  # [B, Q, R]
    positions = torch.cat([places, positions.flatten(1)], 1)
    real = (part > 0) | (inner < lengths[..., None])  # [B, Q, R]: no position attends to padding of prompts
    allowed = (part[None] == 0) | (part[:, None] == part[None])  # [R, R]
    everywhere = torch.ones(len(lengths), shared, dtype=torch.bool, device=device)
    page_sees = torch.cat([everywhere, real[:, 0, :prompt]], 1)
    return Layout(
        shared, prompt, len(part), positions, counts.log()[:, None, None],
        page_sees[:, None, None].expand(-1, -1, shared, -1),
        (allowed & real[:, :, None])[:, None],
    )  # fmt: skip


def attend(
    language: LanguageModel, hidden: Tensor, layout: Layout, watched: set[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """All layers over [B, S + Q R, H], each row computing only the attention it is allowed.

    Plain matrix products: on a CPU their backward is several times faster than the fused kernel's at this size.

    Returns the normed hidden states and, for every layer in `watched`, the log-probabilities that the first GUIDED_HEADS heads
    of the branches' rows give to the page and to their own branch: [B, heads, Q, R, S + R].
    """
    config = language.config
    rotation = rotary_tables(layout.positions, config.head_dim, config.rope_theta)
    looks = {}
    for index, layer in enumerate(language.layers):
        assert isinstance(layer, LlamaDecoderLayer)
        normed = layer.input_layernorm(hidden)
        shape = (*normed.shape[:2], -1, config.head_dim)
        own = layer.self_attn
        query, key, value = (p(normed).view(shape).transpose(1, 2) for p in (own.q_proj, own.k_proj, own.v_proj))
        query, key = apply_rotary_pos_emb(query, key, *rotation)
        query, key = (query * config.head_dim**-0.5).to(value.dtype), key.to(value.dtype)
        page = _page_attention(query, key, value, layout)
        branches, scores = _branch_attention(query, key, value, layout)
        if index in watched:
            looks[index] = scores[:, :GUIDED_HEADS].float().log_softmax(-1)
        mixed = torch.cat([page, branches], 2).transpose(1, 2).flatten(2)
        hidden = hidden + own.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return language.norm(hidden), looks


def _page_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> Tensor:
    end = layout.shared + layout.prompt
    scores = query[:, :, : layout.shared] @ key[:, :, :end].transpose(2, 3)
    scores = scores + F.pad(layout.crowd, (0, layout.prompt)).to(scores.dtype)
    scores = scores.masked_fill(~layout.page_sees, -1e4)
    return scores.softmax(-1) @ value[:, :, :end]


def _branch_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    def split(x: Tensor) -> Tensor:  # [B, heads, Q R, d] -> [B, heads, Q, R, d]
        return x[:, :, layout.shared :].unflatten(2, (-1, layout.branch))

    on_page = query[:, :, layout.shared :] @ key[:, :, : layout.shared].transpose(2, 3)  # [B, heads, Q R, S]
    on_page = on_page + layout.crowd.to(on_page.dtype)
    on_branch = (split(query) @ split(key).transpose(3, 4)).masked_fill(~layout.branch_sees, -1e4)
    scores = torch.cat([on_page.unflatten(2, (-1, layout.branch)), on_branch], -1)
    weights = scores.softmax(-1)
    from_page = weights[..., : layout.shared].flatten(2, 3) @ value[:, :, : layout.shared]
    from_branch = weights[..., layout.shared :] @ split(value)
    return from_page + from_branch.flatten(2, 3), scores


def mass(look: Tensor, target: Tensor) -> Tensor:
    """-log of the attention [B, heads, Q, R, L] that falls on `target` [B, Q, R, L], over the rows that have one, if any."""
    there = target.any(-1)
    on = look.masked_fill(~target[:, None], -1e4).logsumexp(-1).transpose(0, 1)  # [heads, B, Q, R]
    return -on[:, there].sum() / (on.shape[0] * there.sum()).clamp_min(1)


def noise(answers: Tensor, generator: torch.Generator) -> Tensor:
    """Which answer tokens are masked in the first copy, Boolean like `answers`; the second copy masks the others.

    Every answer has a noise level of its own, as in LaViDa's training.
    """
    flat = answers.flatten(0, -2)
    masked, _ = forward_process(
        sample_times(len(flat), generator=generator), torch.rand(flat.shape, generator=generator)
    )
    return masked.view_as(answers).to(answers.device)


def step(
    reader: Reader,
    batch: dict[str, Tensor],
    rng: random.Random,
    generator: torch.Generator,
    learn_tower: bool,
    whole: bool,
) -> tuple[dict[str, Tensor], float]:
    """Losses of one batch, by name, and the share of masked answer tokens that come out right. Of a `whole` image every token is
    shown to tower and language model."""
    inked, written = batch["inked"], batch["written"]
    if whole:
        inked_or_near, kept = (
            torch.ones_like(inked),
            torch.arange(written.shape[1], device=inked.device).expand_as(written),
        )
        counts = torch.ones_like(written, dtype=torch.float32)
    else:
        kept, counts = keep_tokens(written, rng)
        inked_or_near = patches_of(kept, inked)
    with torch.set_grad_enabled(learn_tower):
        seen, rows = reader.see(batch["pixels"], inked_or_near)
    page = take(reader.image_tokens(seen, rows, inked), kept)
    answers, embed = batch["answers"], reader.language.embed_tokens
    longest = int((answers != reader.end_id).sum(-1).max())
    answers = answers[..., : longest + PADDING]
    block, prompt = answers.shape[-1], int(batch["prompt_lengths"].max())
    masked = noise(answers, generator)
    copies = [torch.where(masked, reader.mask_id, answers), torch.where(masked, answers, reader.mask_id)]
    branches = torch.cat([batch["prompts"][..., :prompt], *copies], 2)  # [B, Q, R]
    user = answers.new_full((len(answers), 1), reader.user_id)
    sequence = torch.cat([embed(user), page, embed(branches.flatten(1))], 1)
    layout = lay_out(batch["prompt_lengths"], prompt, block, F.pad(kept + 1, (1, 0)), F.pad(counts, (1, 0), value=1.0))
    hidden, looks = attend(reader.language, sequence, layout, {NAME_LAYER, KEY_LAYER, PLACE_LAYER})
    tails = hidden[:, layout.shared :].unflatten(1, (-1, layout.branch))[:, :, prompt:]  # [B, Q, 2A, H]
    logits = reader.language.logits(tails).float()
    targets, asked = torch.cat([answers, answers], 2), torch.cat([masked, ~masked], 2)
    weight = torch.where(targets == reader.end_id, PADDING_WEIGHT, 1.0) * asked
    each = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view_as(weight)
    losses = {"answer": (each * weight).sum() / weight.sum()}
    losses |= guidance(batch, kept, looks, layout)
    if learn_tower:
        losses |= reading(reader.glyph_heads, batch, seen, rows)
    counted = asked & (targets != reader.end_id)
    return losses, (logits.argmax(-1)[counted] == targets[counted]).float().mean().item()


def reading(heads: GlyphHeads, batch: dict[str, Tensor], seen: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """The tower's dense losses on the patches `rows` [R], of which `seen` [R, D] is the output, where the print can be read."""
    there = batch["readable"].flatten()[rows]
    seen, rows = seen[None, there], rows[there]
    characters, indices = (batch[name].flatten(0, 1)[rows][None] for name in ("characters", "indices"))
    place = rows % PATCHES
    places = torch.stack([place // POSITIONS, place % POSITIONS], -1)[None].add(0.5) / POSITIONS
    glyph, _ = heads.loss(seen, characters, indices, places)
    return {"glyph": glyph, "word": heads.word_loss(seen, batch["words"].flatten()[rows][None])}


def guidance(batch: dict[str, Tensor], kept: Tensor, looks: dict[int, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Losses of the guided heads: answer rows look at the label's token, at the label's patches, at their character's patch."""
    block = (layout.branch - layout.prompt) // 2

    def on_page(
        target: Tensor,
    ) -> Tensor:  # Boolean [B, Q, rows, M] over image tokens -> [B, Q, rows, S] over the page's rows
        index = kept[:, None, None].expand(-1, *target.shape[1:3], -1)
        return F.pad(torch.gather(target, 3, index), (1, 0))

    rows = slice(layout.prompt, None)
    named = batch["named"][:, :, None, : layout.prompt].expand(-1, -1, 2 * block, -1)
    name = looks[NAME_LAYER][..., rows, layout.shared : layout.shared + layout.prompt]
    places = on_page(batch["places"][:, :, :block].repeat(1, 1, 2, 1))
    losses = {"name": mass(name, named), "place": mass(looks[PLACE_LAYER][..., rows, : layout.shared], places)}
    for head in range(GUIDED_HEADS):
        label = on_page(batch["keys"][:, :, head, None]).expand(-1, -1, 2 * block, -1)
        losses[f"key{head}"] = mass(looks[KEY_LAYER][:, head : head + 1, ..., rows, : layout.shared], label)
    return losses


def train_reader(
    stage: Stage,
    reader: Reader,
    seed: int,
    *,
    learn_tower: bool,
    views: dict[str, float],
    guide: tuple[float, float],
    batch: int = 4,
    matrix_lr: float = 0.01,
) -> None:
    """Teach `reader` for the length of `stage`.

    Args:
        learn_tower: whether the tower is trained further, with its dense targets, or frozen.
        views: weights of the kinds of view, see `Lessons`.
        guide: weight of the attention losses at the start and at the end.
        batch: pages a step.
    """
    own, common = stage.own_seed(seed), stage.common_seed(seed)
    rng, generator = random.Random(common), torch.Generator().manual_seed(own)
    reader.tower.requires_grad_(learn_tower)
    reader.glyph_heads.requires_grad_(learn_tower)
    lessons = Lessons(own, common, batch, views)
    loader = iter(
        torch.utils.data.DataLoader(lessons, batch_size=batch, collate_fn=collate, num_workers=1, prefetch_factor=6)
    )
    steppers, curve, device = (
        optimizers(reader, matrix_lr, stage.dtype),
        Curve(stage),
        reader.language.embed_tokens.weight.device,
    )

    def loss() -> Tensor:
        lesson = {name: value.to(device) for name, value in next(loader).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=stage.dtype is torch.bfloat16):
            losses, right = step(reader, lesson, rng, generator, learn_tower and not whole, whole)
        guided = 0.2 * (guide[0] + (guide[1] - guide[0]) * progress)
        weights = {"answer": 1.0, "glyph": 1.0, "word": 0.5}
        weighted = (weights.get(name, guided) * loss for name, loss in losses.items())
        curve.add({"right": right, **{name: loss.item() for name, loss in losses.items()}})
        return sum(weighted, torch.zeros((), device=device))

    for progress in stage.run(reader, steppers):
        whole = learn_tower and progress > WHOLE
        if whole:
            reader.tower.requires_grad_(False)
            reader.glyph_heads.requires_grad_(False)
        optimizer_step(reader, steppers, loss, batches(progress))

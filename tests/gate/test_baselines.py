"""Each baseline worked by hand or against a naive loop, and what must hold for every selector."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shirg.gate import SELECTORS, GateConfig, Request, ShirgGate
from shirg.gate.baselines.common import cosines, spread
from shirg.gate.baselines.crops import _crops, _cut, _mean_variance
from shirg.gate.baselines.diversity import JITTER
from shirg.gate.baselines.pooling import _cells
from shirg.gate.selectors import lattice_lines

NAMES = sorted(SELECTORS)
NEEDY = [name for name in NAMES if SELECTORS[name].needs]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def run(name, tokens, budget, grid, summary=True, **inputs):
    return ShirgGate(GateConfig(selector=name, summary=summary))(tokens, budget, grid, **inputs)


def column(*values):
    """Tokens of one channel: [1, N, 1]."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None]


def at_angles(*degrees):
    """Unit vectors in the plane: [1, N, 2]."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)[None]


def picture(batch, grid, width=8, seed=0):
    """Tokens and all other inputs of a selector."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(grid)
    attention = torch.rand(batch, count, generator=generator).softmax(-1)
    keys = torch.randn(batch, count, 6, generator=generator)
    return torch.randn(batch, count, width, generator=generator) + 0.5, {"attention": attention, "keys": keys}


# --- by hand: pooling -------------------------------------------------------------------------------------------------


def test_pool_by_hand():
    tokens = column(*range(16))
    # Four quadrants
    assert run("pool", tokens, 4, (4, 4)).tokens.flatten().tolist() == [2.5, 4.5, 10.5, 12.5, 7.5]
    # Three: the upper half in two, the lower whole (8 to 15). Nothing is dropped: the summary is the mean of all.
    kept = run("pool", tokens, 3, (4, 4))
    assert kept.tokens.flatten().tolist() == [2.5, 4.5, 11.5, 7.5] and kept.indices is None
    assert kept.assignment.view(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2] * 4] * 2
    # Two parts of three: middles 0.5 | 1.5 2.5 about the border at 1.5
    assert run("pool", column(0, 1, 2), 2, (1, 3)).tokens.flatten().tolist() == [0, 1.5, 1]
    # Fewer cells than views: views are joined
    assert run("pool", column(*range(6)), 2, (3, 1, 2)).assignment.tolist() == [[0, 0, 1, 1, 1, 1]]


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)), st.data())
def test_every_cell_is_a_rectangle_of_similar_size(grid, data):
    budget = data.draw(st.integers(1, math.prod(grid)))
    cells = _cells(budget, grid, torch.device("cpu")).view(grid)
    assert cells.unique().tolist() == list(range(budget))
    # Where views are too narrow for equally many lines of cells each, cells reach into the next view.
    within_views = grid[0] == 1 or budget >= grid[0] * lattice_lines(budget, grid)
    for cell in range(budget) if within_views else ():
        view, row, col = (cells == cell).nonzero().unbind(1)
        assert view.min() == view.max()
        assert (row.max() - row.min() + 1) * (col.max() - col.min() + 1) == len(row)


def test_downsample_by_hand():
    tokens = column(*(i * i for i in range(16)))
    # One point amid 5, 6, 9 and 10: (25 + 36 + 81 + 100) / 4; the squares of 0 to 15 sum to 1240
    kept = run("downsample", tokens, 1, (4, 4))
    assert kept.tokens.flatten().tolist() == pytest.approx([60.5, (1240 - 242) / 12])
    assert (kept.assignment[0] == 0).nonzero().flatten().tolist() == [5, 6, 9, 10]
    # Two points of three tokens: at 0.25 and 1.75 tokens
    assert run("downsample", column(0, 8, 24), 2, (1, 3)).tokens.flatten().tolist() == pytest.approx([2, 20, 32 / 3])


@pytest.mark.parametrize(("grid", "size"), [((4, 4), (2, 2)), ((12, 12), (8, 8)), ((6, 9), (4, 6)), ((5, 5), (2, 2))])
def test_downsample_is_bilinear_interpolation_where_the_lattice_is_whole(grid, size):
    tokens = torch.randn(1, math.prod(grid), 3)
    ours = run("downsample", tokens, math.prod(size), grid, summary=False).tokens
    maps = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs.flatten(2).transpose(1, 2))


# --- by hand: merging -------------------------------------------------------------------------------------------------


def test_visionzip_by_hand():
    # Of 10, round(100 / 64) = 2 are contextual: 8 dominant tokens, 0 to 7. Of the rest, 8 to 13, the middles of two
    # halves are 9 and 12. By keys, 8 and 11 point to the right as 9 does, 10 and 13 up as 12.
    attention = torch.tensor([[9.0] * 8 + [1.0] * 6])
    keys = torch.zeros(1, 14, 2)
    keys[0, 8:] = torch.tensor([[2.0, 1], [1, 0], [1, 3], [5, 0], [0, 1], [-1, 1]])
    kept = run("visionzip", column(*range(14)), 10, (2, 7), attention=attention, keys=keys)
    wanted = [*range(8), (8 + 9 + 11) / 3, (10 + 12 + 13) / 3, 6.5]
    assert kept.tokens.flatten().tolist() == pytest.approx(wanted)
    assert kept.assignment[0].tolist() == [*range(8), 8, 8, 9, 8, 9, 9]


def test_visionzip_of_three_has_no_contextual_token():
    attention = torch.tensor([[0.0, 3, 1, 2, 0]])
    kept = run("visionzip", column(0, 10, 20, 30, 50), 3, (1, 5), attention=attention, keys=torch.ones(1, 5, 1))
    assert kept.tokens.flatten().tolist() == [10, 20, 30, 25] and kept.assignment.tolist() == [[-1, 0, 1, 2, -1]]


def test_prumerge_by_hand():
    # Of 4, one by attention: 5. Of the other seven 0 1 2 3 4 6 7, the middles of three parts: 1, 3 and 6.
    attention = torch.tensor([[0.1, 0.05, 0.2, 0.05, 0.1, 0.4, 0.05, 0.05]])
    # 0 points as 1 does, 2 and 4 as 3, 7 as 5
    keys = torch.tensor([[[2.0, 1], [1, 0], [1, 5], [0, 1], [1, 4], [-1, 0], [0, -1], [-3, 1]]])
    kept = run("prumerge", column(*range(8)), 4, (2, 4), attention=attention, keys=keys)
    wanted = [(1 + 0.1 * 0) / 1.1, (3 + 0.2 * 2 + 0.1 * 4) / 1.3, (5 + 0.05 * 7) / 1.05, 6, 3.5]
    assert kept.tokens.flatten().tolist() == pytest.approx(wanted)
    assert kept.assignment.tolist() == [[0, 0, 1, 1, 1, 2, 3, 2]]


def test_tome_by_hand():
    # A is 0 2 4, B is 1 3. Closest in B: 0 - 1 (10 degrees), 2 - 3 (20), 4 - 3 (40)
    keys = at_angles(0, 10, 100, 120, 160)
    tokens = column(0, 2, 6, 10, 16)
    assert run("tome", tokens, 4, (1, 5), keys=keys).tokens.flatten().tolist() == pytest.approx([1, 6, 10, 16, 6.8])
    assert run("tome", tokens, 3, (1, 5), keys=keys).tokens.flatten().tolist() == pytest.approx([1, 8, 16, 6.8])
    # All of A: 2 and 4 both join 3
    assert run("tome", tokens, 2, (1, 5), keys=keys).tokens.flatten().tolist() == pytest.approx([1, 32 / 3, 6.8])
    # A second round: the mean of all five, not of two means
    assert run("tome", tokens, 1, (1, 5), keys=keys).tokens.flatten().tolist() == pytest.approx([6.8, 6.8])


def naive_tome(keys, budget):
    """Groups as sets, merged one round after the other, in plain Python."""
    groups = [{i} for i in range(len(keys))]
    while len(groups) > budget:
        means = [keys[sorted(group)].mean(0) for group in groups]
        links = []
        for a in range(0, len(groups), 2):
            values = [float(torch.cosine_similarity(means[a], means[b], dim=0)) for b in range(1, len(groups), 2)]
            links.append((max(values), a, 2 * values.index(max(values)) + 1))
        links.sort(key=lambda link: -link[0])
        for _, a, b in links[: len(groups) - budget]:
            groups[b] |= groups[a]
            groups[a] = None
        groups = [group for group in groups if group]
    return groups


@pytest.mark.parametrize("budget", [1, 3, 10, 19, 30])
def test_tome_equals_a_naive_loop(budget):
    tokens, inputs = picture(1, (5, 7))
    assignment = run("tome", tokens, budget, (5, 7), keys=inputs["keys"]).assignment[0]
    groups = naive_tome(inputs["keys"][0].double(), budget)
    assert [set((assignment == k).nonzero().flatten().tolist()) for k in range(budget)] == groups


# --- by hand: diversity -----------------------------------------------------------------------------------------------


def test_divprune_by_hand():
    # Nearest neighbours are 10, 10, 5, 5 and 85 degrees away: first the token at 180. Farthest from it: 0. Then of 10,
    # 90 and 95 (10, 90 and 85 degrees from the nearer of the two): 90.
    tokens = at_angles(0, 10, 90, 95, 180)
    assert run("divprune", tokens, 1, (1, 5)).indices.tolist() == [[4]]
    assert run("divprune", tokens, 2, (1, 5)).indices.tolist() == [[0, 4]]
    assert run("divprune", tokens, 3, (1, 5)).indices.tolist() == [[0, 2, 4]]


def test_divprune_equals_a_naive_loop():
    tokens, _ = picture(1, (6, 7))
    kept = run("divprune", tokens, 20, (6, 7))
    unit = torch.nn.functional.normalize(tokens[0].double(), dim=-1)
    distance = 1 - unit @ unit.T
    chosen: list[int] = []
    while len(chosen) < 20:
        gains = {}
        for i in set(range(42)) - set(chosen):
            others = chosen or [j for j in range(42) if j != i]
            gains[i] = min(float(distance[i, j]) for j in others)
        chosen.append(max(gains, key=gains.get))
    assert kept.indices[0].tolist() == sorted(chosen)
    assert kept.scores[0].argsort(descending=True)[:20].tolist() == chosen  # scores tell the order


def test_tops_by_hand():
    # The most attended, 0, then by a / mean + 0.5 d / mean + 0.5 c / mean of 10, 90 and 180 degrees:
    #   d = 0.015, 1, 2; c = 0.015 + 0.174 + 0.015, 0 + 1 + 1, 0 + 0 + 2: 1.58, 1.96, 2.46
    # then of 10 and 90: d = 0.015, 1; c = 0.015 + 0.174, 0 + 1: 1.51, 2.49
    tokens, attention = at_angles(0, 10, 90, 180), torch.tensor([[0.4, 0.3, 0.15, 0.15]])
    for budget, wanted in ((1, [0]), (2, [0, 3]), (3, [0, 2, 3])):
        assert run("tops", tokens, budget, (2, 2), attention=attention).indices.tolist() == [wanted]
    # Of much attention, the token at 10 degrees comes second: 2.94 + 0.01 + 0.07 before 0.03 + 1.00 + 0.71
    attention = torch.tensor([[0.5, 0.49, 0.005, 0.005]])
    assert run("tops", tokens, 2, (2, 2), attention=attention).indices.tolist() == [[0, 1]]


def naive_tops(tokens, attention, budget):
    """Algorithm 1, every sum taken anew in every step."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    cosine, chosen = unit @ unit.T, [int(attention.argmax())]
    while len(chosen) < budget:
        left = [i for i in range(len(unit)) if i not in chosen]
        nearest = cosine[:, chosen].amax(1)[left]
        terms = attention.double()[left], 1 - nearest, (cosine[left][:, left] - nearest).clamp_min(0).sum(1)
        worth = sum(
            weight * term / term.mean().clamp_min(1e-9) for weight, term in zip((1, 0.5, 0.5), terms, strict=True)
        )
        chosen.append(left[int(worth.argmax())])
    return chosen


@pytest.mark.parametrize("blank", [0, 14, 28])
def test_tops_equals_a_naive_loop(blank):
    tokens, inputs = picture(2, (6, 7))
    tokens[:, :blank] = 0  # unlike all others, and one another
    kept = run("tops", tokens, 30, (6, 7), attention=inputs["attention"])
    for image in range(2):
        chosen = naive_tops(tokens[image], inputs["attention"][image], 30)
        assert kept.scores[image].argsort(descending=True)[:30].tolist() == chosen


def test_dart_by_hand():
    # By L1 norm 3, 1, 5 and 7 are pivots: right, up, right, up. In turn they keep one each: the first what points left,
    # the second what points down, the third the further of the two that are left.
    tokens = torch.tensor([[[-1.0, 0], [0, 9], [1, 1], [10, 0], [0, -1], [8, 0], [-1, -1], [0, 7]]])
    wanted = ([3], [1, 3], [1, 3, 5], [1, 3, 5, 7], [0, 1, 3, 5, 7], [0, 1, 3, 4, 5, 7], [0, 1, 3, 4, 5, 6, 7])
    for budget, places in enumerate(wanted, 1):
        assert run("dart", tokens, budget, (2, 4)).indices.tolist() == [places]
    # 5 + 5 is more than 8
    assert run("dart", torch.tensor([[[8.0, 0], [5, 5]]]), 1, (1, 2)).indices.tolist() == [[1]]


@pytest.mark.parametrize("budget", [4, 5, 9, 21, 40])
def test_dart_equals_a_naive_loop(budget):
    tokens, _ = picture(1, (6, 7))
    pivots = sorted(range(42), key=lambda i: -float(tokens[0, i].abs().sum()))[:4]
    chosen = set(pivots)
    for turn, pivot in enumerate(pivots):
        share = math.ceil((budget - len(chosen)) / (4 - turn))
        cosine = torch.cosine_similarity(tokens[0], tokens[0, pivot], dim=-1).tolist()
        chosen |= set(sorted(set(range(42)) - chosen, key=cosine.__getitem__)[:share])
    assert run("dart", tokens, budget, (6, 7)).indices[0].tolist() == sorted(chosen)


def test_cdpruner_by_hand():
    # Right, right again, up, and between: after the first, nothing is left of the second, all of the third, half of the
    # fourth.
    tokens = torch.tensor([[[1.0, 0], [2, 0], [0, 3], [1, 1]]])
    assert run("cdpruner", tokens, 2, (2, 2)).indices.tolist() == [[0, 2]]
    # The question asks for the fourth and a little for the first: 1, then 0.6^2 / 2 against 0.
    asked = torch.tensor([[0.6, 0, 0, 1]])
    assert run("cdpruner", tokens, 2, (2, 2), relevance=asked).indices.tolist() == [[0, 3]]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("width", [12, 4])  # 4: the budget exceeds the rank
def test_cdpruner_takes_the_greatest_determinant_at_every_step(asked, width):
    tokens, _ = picture(1, (3, 5), width)
    relevance = torch.rand(1, 15) if asked else None
    kept = run("cdpruner", tokens, 8, (3, 5), relevance=relevance)
    unit = torch.nn.functional.normalize(tokens[0].double(), dim=-1)
    kernel = unit @ unit.T + JITTER * torch.eye(15)
    if asked:
        quality = (relevance[0] - relevance.min()) / (relevance.max() - relevance.min()) + 1e-6
        kernel = quality[:, None] * kernel * quality
    order = kept.scores[0].sort(descending=True, stable=True).indices[:8].tolist()
    assert sorted(order) == kept.indices[0].tolist()
    for step, pick in enumerate(order):
        before = order[:step]
        rest = [i for i in range(15) if i not in before]
        values = {i: float(torch.logdet(kernel[[*before, i]][:, [*before, i]])) for i in rest}
        # Beyond the rank a gain is as small as JITTER, of which float32 keeps two digits
        assert values[pick] > max(values.values()) - (1e-4 if step < width else 0.05), (step, pick)


def test_vispruner_by_hand():
    # Two by attention, 0 and 1. Of 2 to 7, most attended first, one goes per round:
    #   A 2 4 6, B 3 5 7: 2 is 10 degrees from 3, 4 and 6 80 and more from all of B: 2 goes; left, most alike first, 4 6 3 5 7
    #   A 4 3 7, B 6 5:   4 is 5 degrees from 6, 7 is 20 from 5, 3 is 85 from 6: 4 goes; left 7 3 6 5
    #   A 7 6, B 3 5:     7 is 20 degrees from 5, 6 is 85 from both: 7 goes; left 6 3 5
    #   A 6 5, B 3:       6 is 85 degrees from 3, 5 is 170: 6 goes; left 5 3
    tokens = at_angles(40, 41, 0, 10, 90, 180, 95, 200)
    attention = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]]) / 36
    kept = run("vispruner", tokens, 4, (2, 4), attention=attention)
    assert kept.indices.tolist() == [[0, 1, 3, 5]]
    assert run("vispruner", tokens, 1, (2, 4), attention=attention).indices.tolist() == [[0]]


# --- by hand: crops ---------------------------------------------------------------------------------------------------


def test_holov_by_hand():
    # Four crops (16 * 18 / (9 * 8)) of 5, 5, 4 and 4. Their means are 0.4, 0.2, 0.22 and 0.18 of the sum of means: of 8
    # tokens 3.2, 1.6, 1.76 and 1.44, rounded down 3, 1, 1 and 1; the two that are left go to the first and the third.
    tokens, _ = picture(1, (3, 6))
    attention = torch.tensor(
        [[0.9, 0.1, 0.5, 0.3, 0.2, 0.1, 0.4, 0.2, 0.2, 0.1, 0.3, 0.1, 0.18, 0.3, 0.1, 0.3, 0.2, 0.12]]
    )
    kept = run("holov", tokens, 8, (3, 6), attention=attention)
    assert kept.indices.tolist() == [[0, 2, 3, 4, 6, 10, 13, 15]]


def test_budget_that_a_full_crop_cannot_use_goes_to_the_most_attended():
    # All 8 are the first crop's, which has five
    tokens, _ = picture(1, (3, 6))
    attention = torch.zeros(1, 18)
    attention[0, :5], attention[0, [7, 12, 17]] = 1, torch.tensor([0.01, 0.02, 0.03])
    kept = run("holov", tokens, 8, (3, 6), attention=attention)
    assert kept.indices.tolist() == [[0, 1, 2, 3, 4, 7, 12, 17]]


def test_of_crops_alike_in_attention_that_of_varied_cosines_comes_first():
    # Two crops of five share seven: 3 each, and the one that is left is the second's, whose cosines are not all 0
    tokens = torch.cat([torch.eye(5), torch.ones(5, 5)])[None]
    kept = run("holov", tokens, 7, (2, 5), attention=torch.full((1, 10), 1 / 16))
    assert kept.indices.tolist() == [[0, 1, 2, 5, 6, 7, 8]]


@given(st.integers(1, 60), st.data())
def test_crops_are_contiguous_and_of_similar_size(count, data):
    number = data.draw(st.integers(1, count))
    members, slots = _crops(count, number, torch.device("cpu"))
    cut = _cut(torch.arange(1.0, count + 1)[None, :, None], slots, number).squeeze(-1)
    assert cut.ne(0).sum(dim=1).tolist() == members.tolist() == sorted(members.tolist(), reverse=True)
    assert cut[cut.ne(0)].tolist() == list(range(1, count + 1)) and members.max() - members.min() <= 1


def test_mean_variance_of_cosines():
    # Three tokens and an empty slot; one token alone
    unit = torch.cat([at_angles(0, 60, 90)[0], torch.zeros(1, 2), at_angles(0)[0], torch.zeros(3, 2)]).view(2, 4, 2)
    cosine = [[0, 0.5, 0], [0.5, 0, 0.75**0.5], [0, 0.75**0.5, 0]]
    wanted = sum(sum((value - sum(row) / 2) ** 2 for value in row) / 2 for row in cosine) / 3
    assert _mean_variance(unit, torch.tensor([3, 1])).tolist() == pytest.approx([wanted, 0], abs=1e-6)


# --- every selector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", [(5, 6), (2, 3, 4), (1, 1, 11), (9, 1)])
def test_any_budget_is_met_exactly(name, grid):
    tokens, inputs = picture(2, grid)
    count = math.prod(grid)
    for budget in {1, 2, 3, count // 3, count // 2 + 1, count - 1, count, count + 5}:
        size = min(budget, count)
        kept = run(name, tokens, budget, grid, **inputs)
        assert kept.tokens.shape == (2, size + 1, 8) and kept.scores.shape == kept.clusters.shape == (2, count)
        for image in range(2):
            assert kept.assignment[image].unique()[-size:].tolist() == list(range(size))  # no output is empty
            gone = kept.assignment[image] < 0
            rest = tokens[image, gone] if gone.any() else tokens[image]
            torch.testing.assert_close(kept.tokens[image, size], rest.mean(0), rtol=1e-3, atol=1e-4)
        if kept.indices is not None:
            assert kept.assignment.gather(1, kept.indices).tolist() == [list(range(size))] * 2
            assert (kept.assignment >= 0).sum(dim=1).tolist() == [size] * 2
        if size == count:
            assert torch.equal(kept.tokens[:, :size], tokens)
        assert torch.equal(kept.tokens[:, :size], run(name, tokens, budget, grid, summary=False, **inputs).tokens)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", [False, True])
def test_a_batch_equals_its_images_one_by_one(name, asked):
    tokens, inputs = picture(3, (8, 9))
    text = torch.randn(3, 4, 8) if asked else None
    config = GateConfig(selector=name)
    together = SELECTORS[name].select(Request(tokens, 25, (1, 8, 9), text, None, None, config, **inputs))
    through_gate = run(name, tokens, 25, (8, 9), text=text, **inputs)
    for image in range(3):
        one = slice(image, image + 1)
        alone = run(
            name,
            tokens[one],
            25,
            (8, 9),
            text=None if text is None else text[one],
            **{key: value[one] for key, value in inputs.items()},
        )
        assert torch.equal(through_gate.tokens[one], alone.tokens)
        torch.testing.assert_close(together.scores[one], alone.scores)
        chosen = together.assignment if together.indices is None else together.indices
        assert torch.equal(chosen[one], alone.assignment if alone.indices is None else alone.indices)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_its_rounded_input(name, dtype):
    tokens, inputs = picture(1, (8, 9))
    tokens, inputs = tokens.to(dtype), {key: value.to(dtype) for key, value in inputs.items()}
    low = run(name, tokens, 25, (8, 9), **inputs)
    high = run(name, tokens.float(), 25, (8, 9), **{key: value.float() for key, value in inputs.items()})
    assert low.tokens.dtype == dtype and torch.equal(low.assignment, high.assignment)
    torch.testing.assert_close(low.tokens, high.tokens.to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_ties_go_to_the_lower_index(name):
    # All tokens alike in every respect, and exactly so: unit vectors along an axis
    tokens = torch.zeros(1, 30, 4)
    tokens[..., 1] = 1
    attention, keys = torch.full((1, 30), 1 / 32), tokens.clone()
    kept = run(name, tokens, 12, (5, 6), attention=attention, keys=keys)
    torch.testing.assert_close(kept.tokens, tokens[:, :13])
    again = run(name, tokens, 12, (5, 6), attention=attention, keys=keys)
    assert torch.equal(kept.assignment, again.assignment) and torch.equal(kept.scores, again.scores)
    if name in ("divprune", "cdpruner", "tops", "dart"):
        assert kept.indices.tolist() == [list(range(12))]


@pytest.mark.parametrize("name", NAMES)
def test_blank_images_pass(name):
    inputs = {"attention": torch.zeros(1, 30), "keys": torch.zeros(1, 30, 4)}
    kept = run(name, torch.zeros(1, 30, 4), 12, (5, 6), **inputs)
    assert kept.tokens.eq(0).all() and kept.assignment.unique()[-12:].tolist() == list(range(12))
    one = run(name, torch.ones(1, 1, 4), 1, (1, 1), attention=torch.ones(1, 1), keys=torch.ones(1, 1, 4))
    assert one.tokens.eq(1).all() and one.assignment.tolist() == [[0]]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_through_all_outputs(name):
    tokens, inputs = picture(2, (5, 6))
    tokens.requires_grad_()
    kept = run(name, tokens, 7, (5, 6), **inputs)
    assert not kept.scores.requires_grad
    kept.tokens[:, :7].sum().backward(retain_graph=True)
    torch.testing.assert_close(tokens.grad.sum(1), torch.full((2, 8), 7.0))  # an output's weights sum to one
    assert tokens.grad[kept.assignment < 0].eq(0).all()
    tokens.grad = None
    kept.tokens[:, 7].sum().backward()
    torch.testing.assert_close(tokens.grad.sum(1), torch.ones(2, 8))


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_refused_by_name(name):
    tokens, inputs = picture(2, (5, 6))
    for need in ("tokens", *SELECTORS[name].needs):
        call = {"tokens": tokens, **inputs}
        call[need] = call[need].clone()
        call[need][1, 4] = math.nan
        with pytest.raises(ValueError, match=f"{need} holds"):
            run(name, call.pop("tokens"), 7, (5, 6), **call)


def test_nan_in_the_question_is_refused():
    tokens, _ = picture(1, (5, 6))
    with pytest.raises(ValueError, match="relevance holds 30 NaN"):
        run("cdpruner", tokens, 7, (5, 6), relevance=torch.full((1, 30), math.nan))
    with pytest.raises(ValueError, match="text holds 16 NaN"):
        run("cdpruner", tokens, 7, (5, 6), text=torch.full((1, 2, 8), math.nan))


@pytest.mark.parametrize("name", NEEDY)
def test_missing_needs_are_named(name):
    tokens, inputs = picture(2, (5, 6))
    gate = ShirgGate(GateConfig(selector=name))
    for need in gate.needs:
        with pytest.raises(ValueError, match=rf"'{name}' needs {need} of .*: give {need} \[B, N"):
            gate(tokens, 7, (5, 6), **{key: value for key, value in inputs.items() if key != need})
        with pytest.raises(ValueError, match=rf"{need} must be \[B, N"):
            gate(tokens, 7, (5, 6), **inputs | {need: inputs[need][:, :-1]})


def test_needs_of_every_selector():
    assert {name: SELECTORS[name].needs for name in NEEDY} == {
        "holov": ("attention",),
        "prumerge": ("attention", "keys"),
        "tome": ("keys",),
        "tops": ("attention",),
        "visionzip": ("attention", "keys"),
        "vispruner": ("attention",),
    }
    assert ShirgGate().needs == ()


def test_cdpruner_keeps_what_is_asked_for():
    tokens, _ = picture(1, (12, 12), width=64)
    named = torch.tensor([17, 60, 121])
    question = tokens[:, named] - tokens.mean(1)
    assert torch.isin(named, run("cdpruner", tokens, 12, (12, 12), text=question).indices[0]).all()
    assert not torch.isin(named, run("cdpruner", tokens, 12, (12, 12)).indices[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph(name):
    tokens, inputs = picture(1, (4, 5))
    gate = ShirgGate(GateConfig(selector=name))
    torch.compiler.reset()  # one forward has a graph per selector, of which only so many are held
    ours = torch.compile(gate, fullgraph=True, backend="eager")(tokens, 6, (4, 5), **inputs)
    theirs = gate(tokens, 6, (4, 5), **inputs)
    assert torch.equal(ours.assignment, theirs.assignment) and torch.equal(ours.tokens, theirs.tokens)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 40])
def test_cosines_are_symmetric_and_right(count):
    tokens = torch.randn(2, count, 5)
    ours = cosines(tokens)
    assert torch.equal(ours, ours.transpose(1, 2))
    torch.testing.assert_close(ours, torch.cosine_similarity(tokens[:, :, None], tokens[:, None], dim=-1))


@given(st.integers(1, 60), st.data())
def test_spread_is_even_and_within(count, data):
    number = data.draw(st.integers(1, count))
    places = spread(number, count, torch.device("cpu")).tolist()
    gaps = {b - a for a, b in zip(places, places[1:], strict=False)}
    assert len(set(places)) == number and places[0] >= 0 and places[-1] < count and len(gaps) <= 2

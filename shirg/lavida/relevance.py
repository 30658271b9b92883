"""How well each visual token matches the question, compared in the language model's space or in SigLIP's.

Neither space was trained for single tokens: similarities may carry little, or be inverted, for a given checkpoint.
`relevance` and `relevance_sign` in the config choose, and measuring both is the only way to know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from shirg.errors import UserError
from shirg.gate.terms import relevance_term, text_cosine
from shirg.lavida import checkpoint
from shirg.lavida.config import RELEVANCE, read_config
from shirg.lavida.prompt import naming_part, text_of
from shirg.lavida.vision import VisionFeatures

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import SiglipConfig

    from shirg.lavida.model import Lavida

LAST_LAYER = "vision_model.encoder.layers.{}."
"""Name in a SigLIP checkpoint of the encoder layer that LaViDa deletes (LaViDa siglip_encoder.py:570-571)."""

NULL_WORDS, LEAST_NULL = 256, 128
"""Words that tell what cosine a token has by chance, and how few of them are too few."""
SURE = 3.5
"""Standard deviations of these cosines that a match must be above their mean. A question has several words and a page 2304
tokens: at 2.3, which one word exceeds at one token in a hundred, questions of random vectors still cost words."""


def token_relevance(model: Lavida, features: VisionFeatures, question_ids: Tensor | None) -> Tensor | None:
    """Cosine of every token of all views to the question, times `config.relevance_sign`: [1, V * N] float32.

    In the space of "llm", the best of the question's words counts, function words left out where a tokenizer tells them
    (`prompt.naming_part`), and only where that is no chance (`sure_relevance`). A checkpoint that has its own border,
    `config.relevance_floor`, is taken at its word: cosines below are raised to it, and are all one to the gate.

    None where the image alone decides: without a question, with `config.relevance == "none"`, or with "llm" where the
    vocabulary is too small to tell what chance gives.

    Args:
        question_ids: ids [L] of what is asked.

    Raises:
        UserError: if `config.relevance` is unknown, or is "siglip" and the model has no text tower, or no tokenizer to
            read the question with.
    """
    kind = model.config.relevance
    if kind == "none" or question_ids is None or not len(question_ids):
        return None
    # Autocast would round the scores, and so choose other tokens in training than at inference.
    with torch.no_grad(), torch.autocast(features.tokens.device.type, enabled=False):
        if kind == "llm":
            if model.tokenizer is not None:
                question_ids = naming_part(question_ids, model.tokenizer)
            tokens, ids = features.tokens.flatten(0, 1), question_ids.to(model.device)
            projector, embed = model.mm_projector, model.language.embed_tokens
            sign, floor = model.config.relevance_sign, model.config.relevance_floor
            if floor > -1:  # the space was trained to have this border
                return (sign * word_relevance(projector, tokens, embed(ids))[None]).clamp_min(floor)
            sure = sure_relevance(projector, tokens, embed, ids, sign)
            return None if sure is None else sure[None]
        if kind == "siglip":
            scores = _need_text_tower(model).relevance(features.tokens, _question_text(model, question_ids))
            return model.config.relevance_sign * scores[None]
        raise UserError(f"relevance={kind!r} is unknown; expected {' or '.join(map(repr, RELEVANCE))}")  # set by hand


def word_relevance(projector: nn.Sequential, tokens: Tensor, words: Tensor) -> Tensor:
    """max_j cos(v_i, t_j) [N] float32 between base-projected tokens, centred by their mean, and word embeddings.

    Args:
        tokens: [N, D] of the tower.
        words: [L, hidden].
    """
    projected = base_projection(projector, tokens)[None].float()
    return text_cosine(projected, projected.square().mean(-1), projected.mean(1), words[None].float())[0]


def sure_relevance(
    projector: nn.Sequential,
    tokens: Tensor,
    embed: nn.Embedding,
    ids: Tensor,
    sign: int = 1,
) -> Tensor | None:
    """`word_relevance` times `sign` where it is no chance; the median where the
    gate would lift it by chance: [N] float32.

    A space in which tokens and words do not meet still has cosines, and some are the greatest. What chance gives is asked of
    `NULL_WORDS` words drawn once for all from the vocabulary, the question's own left out: a token's cosine to the question
    counts where it is `SURE` standard deviations above the token's mean cosine to these.

    None where fewer than `LEAST_NULL` words are left to ask.

    Args:
        tokens: [N, D] of the tower.
        embed: the vocabulary.
        ids: [L], what is asked.
    """
    drawn = torch.randperm(len(embed.weight), generator=torch.Generator().manual_seed(0))[:NULL_WORDS].to(ids.device)
    drawn = drawn[~torch.isin(drawn, ids)]
    if len(drawn) < LEAST_NULL:
        return None
    found = sign * word_relevance(projector, tokens, embed(ids))
    projected = base_projection(projector, tokens).float()
    directions = functional.normalize(projected - projected.mean(0), dim=-1)
    chance = sign * directions @ functional.normalize(embed(drawn).float(), dim=-1).T  # [N, NULL_WORDS]
    sure = found > chance.mean(-1) + SURE * chance.std(-1)
    lifted = relevance_term(found[None])[0] > 0
    return torch.where(lifted & ~sure, found.median(), found)


def base_projection(projector: nn.Sequential, tokens: Tensor) -> Tensor:
    """Tower tokens [..., D] -> [..., hidden] by the projector as it is without any adapter.

    Training the adapter therefore never moves the choice of tokens.
    """
    for layer in projector:
        tokens = getattr(layer, "base_layer", layer)(tokens)  # peft wraps a layer and keeps it as `base_layer`
    return tokens


class TextTower:
    """SigLIP's text tower, and the end of its vision encoder that LaViDa removed; frozen.

    SigLIP (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3) trains one embedding per image
    and one per text to point the same way. To embed a single patch, the attention over patches is left out of the
    pooling while its value and output projections stay, as MaskCLIP does with CLIP (Zhou et al. 2022, "Extract Free
    Dense Labels from CLIP", section 3.1). For SigLIP's pooling head that is the head with the patch as its only key:
    the softmax over one key is 1 whatever the query, so the probe and the query and key projections drop out.

    The vision tower of a released LaViDa was trained further with the language model, so its features have drifted
    from the space that this text tower shares with the published vision tower. How much is left is to be measured on
    the checkpoint in question.

    It is no module, so that it stays out of the model's weights, parameter counts and training; it follows the device
    and precision of the tokens it is given.
    """

    def __init__(self, config: SiglipConfig, tokenizer: Tokenizer):
        """Build it on the "meta" device or with random weights.

        Args:
            config: of the whole SigLIP.
            tokenizer: what is special about SigLIP's text (lower case, end of text) is in it.
        """
        from transformers import SiglipModel

        model = SiglipModel(config).eval().requires_grad_(False)
        self.encoder, self.post_layernorm = model.vision_model.encoder, model.vision_model.post_layernorm
        self.encoder.layers = self.encoder.layers[-1:]
        self.head, self.text_model = model.vision_model.head, model.text_model
        self.text_sizes, self.vision_sizes = model.text_model.config, model.vision_model.config
        names = ("encoder", "post_layernorm", "head", "text_model")
        self.parts = nn.ModuleDict({name: getattr(self, name) for name in names})
        self.tokenizer = tokenizer
        length = self.text_sizes.max_position_embeddings
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(length=length, pad_id=self.text_sizes.pad_token_id)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> TextTower:
        """Read a SigLIP checkpoint, a folder or a hub id; of its vision tower only the part that LaViDa lacks.

        Raises:
            UserError: if there is no such checkpoint, it is no SigLIP with a text tower, or a tensor is missing.
        """
        try:
            folder = checkpoint.resolve(name)
        except UserError as error:
            raise UserError(f"text tower: {error}") from error
        config, tokenizer = _siglip_config(folder), _tokenizer(folder)
        with torch.device("meta"):
            tower = cls(config, tokenizer)
        if tokenizer.get_vocab_size() > tower.text_sizes.vocab_size:
            raise UserError(
                f"text tower {folder}: tokenizer.json knows {tokenizer.get_vocab_size()} tokens, config.json "
                f"{tower.text_sizes.vocab_size}; take both from one checkpoint"
            )
        tower._load(folder, torch.device(device), dtype)
        return tower

    def relevance(self, tokens: Tensor, question: str) -> Tensor:
        """cos of every patch to the question: [V, N, D] raw tokens of the shortened tower -> [V * N] float32."""
        patches = functional.normalize(self.embed_patches(tokens).flatten(0, 1).float(), dim=-1)
        return patches @ functional.normalize(self.embed_text(question).to(patches), dim=0)

    @torch.no_grad()
    def embed_patches(self, tokens: Tensor) -> Tensor:
        """Every patch in the space that images and texts share: [V, N, D] -> [V, N, D].

        The removed layer attends within each view, at any resolution: positions were added before the first layer.
        """
        self._follow(tokens)
        hidden = self.encoder(inputs_embeds=tokens).last_hidden_state
        hidden = self.post_layernorm(hidden)
        # The head with one key (transformers' SiglipMultiheadAttentionPoolingHead): value and output projection of
        # the key itself, then the residual MLP. The packed input projection holds query, key and value rows.
        head, width = self.head, tokens.shape[-1]
        attention = head.attention
        value = functional.linear(hidden, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
        pooled = attention.out_proj(value)
        return pooled + head.mlp(head.layernorm(pooled))

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """A text in the shared space, [D], padded to the full length without a mask, as SigLIP was trained."""
        ids = torch.tensor([self.tokenizer.encode(text).ids], device=self._sample.device)
        return self.text_model(input_ids=ids).pooler_output[0]

    @property
    def _sample(self) -> Tensor:
        return self.post_layernorm.weight

    def _follow(self, tokens: Tensor) -> None:
        if (self._sample.device, self._sample.dtype) != (tokens.device, tokens.dtype):
            self.parts.to(tokens.device, tokens.dtype)

    def _load(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        last = LAST_LAYER.format(self.vision_sizes.num_hidden_layers - 1)
        wanted = {_hub_name(name, last): (name, value.shape) for name, value in self.parts.state_dict().items()}
        files = checkpoint.weight_files(folder)
        others = checkpoint.stored_shapes(files)  # the rest of the vision tower, left unread
        weights = f"the weights of text tower {folder}"
        state = checkpoint.read_tensors(files, wanted, weights, unused=others, device=device, dtype=dtype)
        self.parts.load_state_dict(state, assign=True)
        self.parts.requires_grad_(False)
        embeddings = self.text_model.embeddings
        places = torch.arange(embeddings.position_embedding.num_embeddings, device=device)[None]
        embeddings.register_buffer("position_ids", places, persistent=False)


def load_text_tower(model: Lavida, name: str | Path) -> TextTower:
    """The text tower of the SigLIP that `model`'s vision tower was made from.

    Raises:
        UserError: as `TextTower.from_pretrained`, and if that SigLIP's vision tower has other sizes.
    """
    tower = TextTower.from_pretrained(name, device=model.device, dtype=model.dtype)
    theirs, ours = tower.vision_sizes, model.tower.config
    sizes = {"width": (theirs.hidden_size, ours.hidden_size)}
    sizes["layers"] = (theirs.num_hidden_layers, ours.num_hidden_layers + 1)  # with the one that LaViDa removed
    for what, (has, needs) in sizes.items():
        if has != needs:
            raise UserError(
                f"text tower {name}: its vision tower's {what} is {has}, this model's was {needs}; give the SigLIP "
                "that the model's tower was made from (siglip-so400m-patch14-384 for released LaViDa)"
            )
    return tower


def _hub_name(name: str, last: str) -> str:
    if name.startswith("encoder."):
        return last + name.removeprefix("encoder.layers.0.")
    return name if name.startswith("text_model.") else f"vision_model.{name}"


def _need_text_tower(model: Lavida) -> TextTower:
    if model.text_tower is None:
        raise UserError(
            'relevance "siglip" compares tokens with the question in SigLIP\'s space, and LaViDa checkpoints hold no '
            "text tower: call model.load_text_tower(SigLIP folder or hub id), on the command line give --text-tower"
        )
    return model.text_tower


def _question_text(model: Lavida, question_ids: Tensor) -> str:
    if model.tokenizer is None:
        raise UserError(
            'relevance "siglip" reads the question as text, and this model came without a tokenizer; use "llm" or "none"'
        )
    return text_of(model.tokenizer, question_ids.tolist(), skip_special_tokens=True).strip()


def _siglip_config(folder: Path) -> SiglipConfig:
    from transformers import SiglipConfig

    raw = read_config(folder)
    if raw.get("model_type") != "siglip" or not isinstance(raw.get("vision_config"), dict):
        raise UserError(
            f"text tower {folder}: config.json is of model_type={raw.get('model_type')!r}, not of a whole SigLIP with "
            'text and vision ("siglip", such as google/siglip-so400m-patch14-384)'
        )
    no_ids = {"bos_token_id": None, "eos_token_id": None}  # the defaults are CLIP's, beyond SigLIP's vocabulary
    try:
        return SiglipConfig(
            text_config={**no_ids, **(raw.get("text_config") or {})},
            vision_config={**raw["vision_config"], "vision_use_head": True},
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"text tower {folder}: config.json is not one that transformers reads ({error})") from error


def _tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"text tower {folder}: no tokenizer.json; take it from the same SigLIP checkpoint")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path} is no readable tokenizer ({error})") from error

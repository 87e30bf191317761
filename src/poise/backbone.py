"""A Hugging Face encoder or decoder: token ids → ``Features``, one forward pass for prompt and response states.

In ``Backbone.states`` a row's padded length depends on that row alone (the next multiple of ``QUANTUM``), and a batch
holds rows of one padded length only. So the kernels see the same shapes per row whatever else is scored with it: the same
text gives the same state alone and in any batch, in bfloat16 too, and hardly anything is computed on padding.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from poise import aliases
from poise.data.chat import SHORTEST, ChatEncoder, Encoded, TemplateRefusal, Truncate
from poise.errors import BackboneError, ConfigError, PoiseError
from poise.features import Pooling, pool, state_at
from poise.fingerprint import fingerprint, text_settings
from poise.readout import TokenHead, instruction_for, tied_head

QUANTUM = 16
CPU_TOKENS = 4096  # a batch that fits the processor's cache; more is slower
GPU_TOKENS = 65536
DEFAULT_MAX_LENGTH = 2048
# their first position is the pad id + 1, so they read fewer tokens than they have positions
COUNTS_FROM_PAD = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "xmod", "ibert", "mpnet"),
    *("longformer", "luke", "data2vec-text", "esm"),
)


@dataclass(frozen=True)
class BackboneConfig:
    """Which pretrained model reads the text, and how.

    ``dtype="auto"`` is bfloat16 where the processor computes it natively, else float32; the head is always float32.
    ``pooling="auto"`` is the last token for decoders and the mean over the response for encoders.
    ``max_length`` (tokens) defaults to what the model allows, at most 2048. ``readout="rating"`` (decoders) puts the
    ``rating_instruction`` after the conversation and reads the state from which the model would answer it; ``auto`` does
    so where the head starts from the model's own rating tokens.
    """

    name: str = "minilm"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    pooling: Literal["auto", "last", "mean", "response_mean", "cls"] = "auto"
    max_length: int | None = None
    truncate: Truncate = "prompt"
    device: str = "auto"
    attention: str | None = None
    trust_remote_code: bool = False
    readout: Literal["auto", "response", "rating"] = "auto"
    rating_instruction: str | None = None

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < SHORTEST:
            raise ConfigError(f"max_length is {self.max_length}; it must be at least {SHORTEST} tokens")
        if self.readout == "rating" and self.pooling not in ("auto", "last"):
            raise ConfigError(f"pooling is {self.pooling!r}; readout='rating' reads the last token, leave pooling out")
        if self.rating_instruction is not None and (self.readout == "response" or not self.rating_instruction.strip()):
            raise ConfigError("rating_instruction is given but empty or never read; write one with readout='rating'")


class Backbone:
    """A pretrained model with its tokenizer. ``hidden_size`` is H; ``causal`` says that no token sees a later one."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, config: BackboneConfig, token_head: TokenHead | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.config = config
        settings = text_settings(model.config)
        self.hidden_size: int = settings.hidden_size
        self.causal = is_causal(model.config)
        self.pooling: Pooling = _pooling(config.pooling, self.causal)
        self.max_length = max_length(config, settings, tokenizer)
        if config.readout == "rating" and not self.causal:
            raise ConfigError(f"readout='rating' needs a decoder, and {config.name!r} is an encoder; leave readout out")
        self.encoder = _encoder(tokenizer, self.max_length, config)
        self._token_head = token_head
        self.segments = "token_type_ids" in tokenizer.model_input_names and getattr(settings, "type_vocab_size", 0) > 1

    @classmethod
    def load(cls, config: BackboneConfig, rating_tokens: Sequence[str] = ()) -> Backbone:
        """Load by alias, hub id or folder (safetensors only). Raises ``BackboneError`` with the way out.

        ``rating_tokens`` are the words whose weights will be asked for (``token_rows``): a decoder then reads the
        conversation as its own request for a rating, unless the configuration says otherwise, and keeps its
        language-model head.
        """
        source, device = aliases.resolve(config.name), device_of(config.device)
        with explained(config.name, source):
            settings = AutoConfig.from_pretrained(source, **loading_options(config))
            tokenizer = _tokenizer(source, config)
            max_length(config, text_settings(settings), tokenizer)  # refused before the weights are read
            with_head = bool(rating_tokens) and is_causal(settings)
            if with_head and config.readout != "response":
                text = config.rating_instruction or instruction_for(rating_tokens)
                config = replace(config, readout="rating", rating_instruction=text)
            model, info = (AutoModelForCausalLM if with_head else AutoModel).from_pretrained(
                source,
                config=settings,
                dtype=dtype_of(config.dtype, device),
                use_safetensors=True,
                output_loading_info=True,
                **({"attn_implementation": config.attention} if config.attention else {}),
                **loading_options(config),
            )
            missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
            if missing:
                raise BackboneError(
                    f"backbone {config.name!r} lacks {len(missing)} weights (first: {missing[0]}), which would be random; "
                    "check that the folder holds the whole model"
                )
            model = model.eval().to(device)
            head = TokenHead.of(model, config.name) if with_head else None
        return cls(model.base_model if with_head else model, tokenizer, config, head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are computed in."""
        return next(self.model.parameters()).dtype

    @property
    def tokens_per_batch(self) -> int:
        """How many tokens, padding included, one forward pass takes at most."""
        return CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS

    def fingerprint(self) -> str:
        """Hash of the weights, their dtype, and how states are computed and read: equal ones give equal features."""
        layout = "prompt|response" if self.causal else QUANTUM
        return fingerprint(self.model, f"{self.pooling}|{self.segments}|{layout}")

    def encode(self, texts: Sequence[tuple[Any, Any]]) -> list[Encoded]:
        """(prompt, response) pairs → token ids; see ``ChatEncoder``."""
        return self.encoder.encode_many(texts)

    def token_rows(self, words: Sequence[str]) -> Tensor:
        """The output weights [K, H] of words: their products with a state are the logits of a rating.

        Decoders give the rows of the language-model head, in the position where the rating is read; encoders those of
        their input embedding, which their own heads share. Raises ``BackboneError`` for a word of several tokens.
        """
        ids = self._token_ids(words)
        if self.causal:
            return self.token_head.rows(ids)
        rows: Tensor = self.model.get_input_embeddings().weight[ids]  # type: ignore[operator]
        return rows.detach().float().cpu()

    def off_grid_mass(self, states: Tensor, words: Sequence[str]) -> Tensor:
        """How likely [n] the language model is to say none of the words in states [n, H]; decoders only."""
        return self.token_head.mass_outside(states, self._token_ids(words))

    @property
    def token_head(self) -> TokenHead:
        """The language-model head. Raises ``BackboneError`` where there is none."""
        if not self.causal:
            raise BackboneError(
                f"backbone {self.config.name!r} is an encoder and has no language-model head; give a decoder"
            )
        if self._token_head is None:
            self._token_head = tied_head(self.model, self.config.name)
        return self._token_head

    def _token_ids(self, words: Sequence[str]) -> list[int]:
        if self.causal and self.encoder.instruction is None:
            raise BackboneError("rating tokens answer an instruction; set backbone.readout=rating or leave it out")
        try:
            found = self.encoder.ids_of_next(words)
        except TemplateRefusal as refusal:
            raise BackboneError(f"backbone {self.config.name!r}: {refusal}; use head: linear") from None
        for word, ids in zip(words, found, strict=True):
            if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
                raise BackboneError(
                    f"backbone {self.config.name!r} does not read {word!r} as one token where the rating stands; use head: linear"
                )
        return [ids[0] for ids in found]

    def states(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """One padded forward pass over one batch: (state of the text, state at the end of its prompt), each [R, H] float32.

        The second is prompt-only for decoders; for encoders, whose prompt tokens see the response, it is meaningless:
        encode the prompt as a row of its own (``prompt_row``).
        """
        lengths = torch.tensor([len(row.ids) for row in rows])
        prompts = torch.tensor([row.prompt_length for row in rows])
        padded = padded_inputs(rows, self.max_length, segments=self.segments)
        inputs = {name: tensor.to(self.device) for name, tensor in padded.items()}
        extra = {"use_cache": False} if self.causal else {}
        # an outer autocast would compute other states than the dtype says, and they would stay in the cache
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            hidden = self.model(**inputs, **extra).last_hidden_state
            lengths, prompts = lengths.to(self.device), prompts.to(self.device)
            text = pool(hidden, lengths, prompts, self.pooling)
            prompt = state_at(hidden, (prompts - 1).clamp(min=0))
            prompt[prompts == 0] = 0.0  # no prompt, no state: that of the response must not stand in for it
        return text.cpu(), prompt.cpu()


class Row(NamedTuple):
    """What one forward row needs: token ids, of which the first ``prompt_length`` belong to the prompt."""

    ids: tuple[int, ...]
    prompt_length: int


def padded_inputs(rows: Sequence[Row], limit: int, *, segments: bool, pad: int = 0) -> dict[str, Tensor]:
    """What a model takes for rows of one batch, padded on the right to ``padded_length``."""
    width = padded_length(max(len(row.ids) for row in rows), limit)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
    mask = torch.arange(width) < torch.tensor([len(row.ids) for row in rows])[:, None]
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if segments:
        prompts = torch.tensor([row.prompt_length for row in rows])[:, None]
        inputs["token_type_ids"] = ((torch.arange(width) >= prompts) & mask).long()
    return inputs


def prompt_row(encoded: Encoded) -> Row:
    """The prompt as a text of its own, for backbones whose prompt tokens would see the response."""
    ids = encoded.ids[: encoded.prompt_length]
    return Row(ids, len(ids))


def padded_length(length: int, limit: int) -> int:
    """The next multiple of ``QUANTUM``, at most ``limit``."""
    return max(length, min(-(-length // QUANTUM) * QUANTUM, limit))


def plan_batches(rows: Sequence[Row], limit: int, budget: int = CPU_TOKENS) -> Iterator[list[int]]:
    """Row numbers in batches of one padded length, longest first (too little memory shows at once).

    Rows that fill their padded length exactly stay apart: a batch without padding drops its mask and runs other kernels.
    """
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        width = padded_length(len(row.ids), limit)
        groups[width, width == len(row.ids)].append(number)
    for (width, _), members in sorted(groups.items(), reverse=True):
        size = max(1, budget // width)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def is_causal(settings: Any) -> bool:
    """Whether no token attends to a later one: decided by what transformers registers the config's architecture as."""
    if getattr(settings, "is_encoder_decoder", False):
        raise BackboneError(f"{settings.model_type} is an encoder-decoder; choose an encoder or a decoder backbone")
    masked = transformers.models.auto.modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decoder = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = settings.model_type
    if getattr(settings, "use_bidirectional_attention", False):  # an embedding model on a decoder's architecture
        return False
    return bool(getattr(settings, "is_decoder", False)) or (kind in decoder and kind not in masked)


def _pooling(given: str, causal: bool) -> Pooling:
    if given == "auto":
        return "last" if causal else "response_mean"
    return given  # type: ignore[return-value]


def max_length(config: BackboneConfig, settings: Any, tokenizer: Any) -> int:
    """The token limit: as configured, else what model and tokenizer allow, at most ``DEFAULT_MAX_LENGTH``."""
    positions = getattr(settings, "max_position_embeddings", None)
    if positions and settings.model_type in COUNTS_FROM_PAD:
        positions -= settings.pad_token_id + 1
    limits = [positions, tokenizer.model_max_length]
    allowed = min(int(n) for n in [*limits, 10**9] if n and n > 0)
    if config.max_length is None:
        return min(allowed, DEFAULT_MAX_LENGTH)
    if config.max_length > allowed:
        raise ConfigError(
            f"backbone.max_length is {config.max_length}; {config.name!r} reads at most {allowed} tokens, choose that or less"
        )
    return config.max_length


def load_encoder(config: BackboneConfig) -> ChatEncoder:
    """Only the text side of a backbone: its tokenizer and limits, without its weights."""
    source = aliases.resolve(config.name)
    with explained(config.name, source):
        settings = AutoConfig.from_pretrained(source, **loading_options(config))
        tokenizer = _tokenizer(source, config)
    return _encoder(tokenizer, max_length(config, text_settings(settings), tokenizer), config)


def _encoder(tokenizer: Any, limit: int, config: BackboneConfig) -> ChatEncoder:
    instruction = config.rating_instruction or instruction_for(()) if config.readout == "rating" else None
    return ChatEncoder(tokenizer, limit, config.truncate, instruction)


def _tokenizer(source: str, config: BackboneConfig) -> Any:
    """The tokenizer; transformers makes an empty one, which reads every text alike, where the files are missing."""
    tokenizer = AutoTokenizer.from_pretrained(source, **loading_options(config))
    if not set(tokenizer("a b c 1 2 3", add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}:
        raise BackboneError(
            f"backbone {config.name!r} has a tokenizer without a vocabulary; put the tokenizer's files beside the weights"
        )
    return tokenizer


def loading_options(config: BackboneConfig) -> dict[str, Any]:
    """What every ``from_pretrained`` of a model is given."""
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


@contextlib.contextmanager
def explained(name: str, source: str) -> Iterator[None]:
    """Load quietly; turn what transformers raises into one message with the way out."""
    try:
        with quiet():
            yield
    except PoiseError:
        raise
    except Exception as error:  # damaged files and code from the hub raise whatever they choose
        raise BackboneError(_loading_problem(name, source, error)) from None


def device_of(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` as a device that works; raises ``BackboneError``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BackboneError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackboneError(f"device {name!r} was asked for, but torch sees no GPU; use device=auto or cpu")
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise BackboneError(f"device {name!r} cannot be used ({reason}); use auto, cpu, cuda or cuda:0") from None
    return device


def trainable(config: BackboneConfig) -> BackboneConfig:
    """The same for training through the backbone: ``dtype="auto"`` keeps the weights in float32 (see ``computes_bf16``)."""
    return replace(config, dtype="float32") if config.dtype == "auto" else config


def computes_bf16(config: BackboneConfig) -> bool:
    """Whether training with weights in float32 should compute in bfloat16: as configured, or natively where auto."""
    return config.dtype == "auto" and dtype_of("auto", device_of(config.device)) == torch.bfloat16


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """As configured; ``auto`` is bfloat16 where the device computes it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own loading bars and advice off the terminal; errors still come through."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _loading_problem(name: str, source: str, error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    folder = Path(source)
    if folder.is_dir() and not (folder / "config.json").exists():
        return f"backbone folder {source} has no config.json; give the folder of a saved Hugging Face model"
    if "trust_remote_code" in str(error):
        return f"backbone {name!r} needs code from its repository; set backbone.trust_remote_code=true if you trust it"
    if "safetensors" in str(error) and folder.is_dir():
        return f"backbone folder {source} has no safetensors weights ({first}); convert the model with save_pretrained"
    return f"cannot load backbone {name!r} ({first}); check the name or folder, and the network for a hub id"

"""Settings under the names that transformers 4, and the engines built on it, read them by.

Without them those take their defaults and compute other states, without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROPE, LOCAL = "full_attention", "sliding_attention"
# gpt_neox says it differently
RENAMED = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}


def legacy_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written beside the settings of a config.json of transformers 5."""
    legacy = {"torch_dtype": config["dtype"]} if "dtype" in config else {}
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return legacy
    local = rope.get(LOCAL) if isinstance(rope.get(LOCAL), Mapping) else None
    if local is not None and "rope_theta" in local:
        legacy["rope_local_base_freq"] = local["rope_theta"]
    whole = rope.get(ROPE, rope)
    renamed = RENAMED.get(str(config.get("model_type")), {})
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in whole:
            legacy[renamed.get(name, name)] = whole[name]
    scaling = {k: v for k, v in whole.items() if k not in ("rope_theta", "partial_rotary_factor")}
    plain = scaling.get("rope_type", "default") == "default"
    return legacy | {"rope_scaling": None if plain else scaling}

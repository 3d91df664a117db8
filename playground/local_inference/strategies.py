"""The decoding strategies as a table: what each does and which settings it reads."""

from __future__ import annotations

from dataclasses import dataclass

from playground.types import GenerationSettings, Strategy

_PENALTIES = ("repetition_penalty", "penalize_prompt", "presence_penalty", "frequency_penalty")
_ALWAYS = ("max_new_tokens", *_PENALTIES, "stop", "system_prompt", "top_logprobs", "logit_bias", "reproducible")


@dataclass(frozen=True)
class StrategyInfo:
    """One strategy as people see it. ``parameters`` are the settings that it reads; the others have no effect on it."""

    name: Strategy
    label: str
    description: str
    deterministic: bool
    parameters: tuple[str, ...]

    @property
    def uses_temperature(self) -> bool:
        """True when the temperature changes the answer."""
        return "temperature" in self.parameters


STRATEGY_TABLE: dict[Strategy, StrategyInfo] = {
    info.name: info
    for info in (
        StrategyInfo("greedy", "Greedy", "Always the likeliest token.", True, _ALWAYS),
        StrategyInfo(
            "sampling",
            "Sampling (nucleus)",
            "A random draw from the likeliest tokens that make up top p of the probability.",
            False,
            ("temperature", "top_p", "top_k", "min_p", "num_return_sequences", "seed", *_ALWAYS),
        ),
        StrategyInfo(
            "top_k",
            "Top-k sampling",
            "A random draw from the k likeliest tokens.",
            False,
            ("temperature", "top_k", "num_return_sequences", "seed", *_ALWAYS),
        ),
        StrategyInfo(
            "beam_search",
            "Beam search",
            "Keeps the best few continuations and returns the likeliest; the answer comes whole, at the end.",
            True,
            ("num_beams", "num_return_sequences", *(name for name in _ALWAYS if name != "top_logprobs")),
        ),
    )
}


def parameters(settings: GenerationSettings) -> tuple[str, ...]:
    """The names of the settings that ``settings.strategy`` reads."""
    return STRATEGY_TABLE[settings.strategy].parameters

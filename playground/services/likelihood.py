"""How likely a model finds single tokens at a place in its answer, those too that no list of alternatives reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from playground.services.generation import Generation
from playground.types import GenerationRequest, Token


def likelihoods(
    generation: Generation,
    request: GenerationRequest,
    begun: Sequence[int],
    tokens: Sequence[int],
    wanted: Callable[[], bool] = lambda: True,
) -> dict[int, Token]:
    """Each of ``tokens`` (ids) as likely as it is after ``request``'s prompt and ``begun`` (ids); generates nothing, blocks.

    Each is read in a pass of the same shape, so however that rounds, they can be compared with each other. Raises
    `ModelNotLoaded`, and what `Generation.prompt_tokens` raises.
    """
    prompt = generation.render(request).token_ids
    settings = request.settings.replace(system_prompt="", num_return_sequences=1)
    found = {}
    for token in tokens:
        ids = (*prompt, *begun, token)
        asked = GenerationRequest(request.spec, settings=settings, template="raw", user=request.user, prompt_ids=ids)
        found[token] = generation.prompt_tokens(asked, 0, wanted)[-1]
    return found

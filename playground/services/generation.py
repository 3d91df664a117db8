"""Generating text for a surface: a thin, named door to the engine, so that no surface needs to know which one it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

from playground.config import AppConfig
from playground.local_inference import LocalInference
from playground.services.meters import Meters
from playground.types import GenerationEvent, GenerationRequest, ModelSpec, RenderedPrompt


class Generation:
    """Streams of events for requests, and the prompt as the model reads it."""

    def __init__(self, engine: LocalInference, config: AppConfig | None = None, meters: Meters | None = None) -> None:
        self._engine = engine
        self._config = config or AppConfig()
        self._meters = meters or Meters()

    def stream(self, request: GenerationRequest) -> Generator[GenerationEvent, None, None]:
        """The events of one request, read from a plain thread; see `LocalInference.stream`."""
        return self._engine.stream(request)

    def astream(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """The events of one request on the event loop; closing the iterator stops the generation."""
        return self._engine.astream(request)

    def render(self, request: GenerationRequest) -> RenderedPrompt:
        """The rendered prompt and its token ids. Raises `ModelNotLoaded` when the base is not in memory."""
        return self._engine.render(request)

    def count_tokens(self, spec: ModelSpec, text: str) -> int:
        """How many tokens ``text`` is to the loaded model's own tokenizer. Raises `ModelNotLoaded`."""
        return self._engine.count_tokens(spec, text)

    def activity(self) -> tuple[int, int]:
        """(rows being answered, requests waiting), now."""
        return self._engine.activity()

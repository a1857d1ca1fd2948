"""Which model answers: the one place that decides, from an id, and says why the default is what it is.

1. `demo` and `demo?...` are built in. `gemini-*` goes to Google where its credentials are set. Every other id, and
   `gemini-*` without credentials (a proxy may serve it), goes to the OpenAI-compatible server, where one is set.
2. A default that cannot work is refused when the catalog is made, so at start-up and not at the first question.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

from proto.answers import ModelInfo, ModelList
from proto.errors import ChatError
from proto.requests import check_model_id, invalid
from server.models import Model, Provider

# The flash model of google-genai's own documentation.
GEMINI_DEFAULT = "gemini-3.8-flash"
VERTEX_SWITCHES = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
MODELS_TIMEOUT_SECONDS = 2.0
MODELS_CACHE_SECONDS = 10.0
MAX_KNOWN_MODELS = 64


def gemini_credentials(environ: Mapping[str, str]) -> str | None:
    """The variable by which Gemini may be asked, in the order in which google-genai looks; None without one."""
    vertex = next((name for name in VERTEX_SWITCHES if name in environ), None)
    if vertex is not None and environ[vertex].lower() in ("true", "1"):
        return vertex
    return next((name for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY") if environ.get(name, "").strip()), None)


def choose_default(flag: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """The model of new sessions, and a clause that says why. `flag` is --model or FIVEWIRE_MODEL."""
    if flag:
        return flag, "chosen by --model or FIVEWIRE_MODEL"
    if environ.get("GENAI_MODEL_ID"):
        return environ["GENAI_MODEL_ID"], "chosen by GENAI_MODEL_ID"
    credentials = gemini_credentials(environ)
    if credentials:
        return GEMINI_DEFAULT, f"because {credentials} is set"
    if environ.get("LOCAL_LLM_URL"):
        return "demo", "built in; name a model of the server at LOCAL_LLM_URL with --model to have it answer"
    return "demo", "built in; no GEMINI_API_KEY, GOOGLE_API_KEY or LOCAL_LLM_URL is set, so no real model answers"


def is_gemini(model_id: str) -> bool:
    return model_id.removeprefix("models/").startswith("gemini-")


class Catalog:
    """The providers of this server, and the model that answers where none is named."""

    def __init__(self, providers: Sequence[Provider], default: str, reason: str) -> None:
        self._providers = {provider.name: provider for provider in providers}
        self._known: dict[str, Model] = {}
        self._listed: tuple[float, list[ModelInfo]] | None = None
        self._listing = asyncio.Lock()
        self.default = default
        self.reason = reason
        self.model(default)

    def model(self, model_id: str | None = None) -> Model:
        """The model with this id, or the default; ChatError `invalid_request` where nobody here can answer for it."""
        chosen = model_id or self.default
        model = self._known.get(chosen)
        if model is None:
            model = self._provider(check_model_id(chosen)).model(chosen)
            if len(self._known) < MAX_KNOWN_MODELS:  # ids come from strangers
                self._known[chosen] = model
        return model

    def _provider(self, model_id: str) -> Provider:
        name = "demo" if model_id.partition("?")[0] == "demo" else "gemini" if is_gemini(model_id) else "openai"
        provider = self._providers.get(name)
        if provider is None and name == "gemini":
            provider = self._providers.get("openai")
        if provider is not None:
            return provider
        if name == "gemini":
            raise invalid(f"The model '{model_id}' needs a key: set GEMINI_API_KEY where the server is started.")
        raise invalid(
            f"There is no model '{model_id}' here. 'demo' is built in, gemini-* are Google's, and any other id needs "
            "LOCAL_LLM_URL, the address of an OpenAI-compatible server, where the server is started."
        )

    async def models(self) -> ModelList:
        """What can be asked, as far as the providers tell in time: one that is down or slow is left out."""
        async with self._listing:
            if self._listed is None or time.monotonic() - self._listed[0] > MODELS_CACHE_SECONDS:
                told = await asyncio.gather(*map(self._told, self._providers.values()))
                self._listed = time.monotonic(), [model for models in told for model in models]
        return ModelList(self.default, self._listed[1])

    async def _told(self, provider: Provider) -> list[ModelInfo]:
        try:
            async with asyncio.timeout(MODELS_TIMEOUT_SECONDS):
                return await provider.models()
        except (ChatError, TimeoutError):
            return []

    async def close(self) -> None:
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))

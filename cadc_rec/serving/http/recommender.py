"""The model as KServe knows it: ready, described, called.

In: a KServe `InferRequest`. Out: an `InferResponse`. The same object serves under KServe's own
`ModelServer`, whose protocol endpoints the service uses.
"""

from __future__ import annotations

import time
from typing import Any

from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput, ModelNotFound
from kserve.model import InferenceModel, InferenceVerb
from kserve.model_repository import ModelRepository
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from cadc_rec.errors import CadcError
from cadc_rec.serving.http import metrics
from cadc_rec.serving.http.batching import Batcher
from cadc_rec.serving.http.loaded import Loaded
from cadc_rec.serving.http.queries import described, query_of, response_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.predictor import Source

_WORDS = [source.word for source in Source]


class Recommender(InferenceModel):
    """Recommendations of the bundle of the moment.

    Args:
        name: what clients call it.
        loaded: the bundle.
        limits: of requests.
    """

    def __init__(self, name: str, loaded: Loaded, limits: Limits) -> None:
        super().__init__(name)
        self.loaded, self.limits = loaded, limits
        self.batcher = Batcher(limits.waiting)
        self.ready = True

    async def __call__(
        self,
        body: Any,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[InferResponse, dict[str, str]]:
        """Answer a request.

        Raises:
            InvalidInput: it is not one that can be answered.
            Busy: too many wait.
        """
        if verb != InferenceVerb.PREDICT or not isinstance(body, InferRequest):
            raise InvalidInput(
                "only inference requests of the Open Inference Protocol are answered."
            )
        protocol = "grpc" if body.from_grpc else "rest"
        began, outcome = time.perf_counter(), "refused"
        try:
            predictor = self.loaded.predictor
            query = query_of(body, predictor, self.limits)
            answer = await self.batcher.recommend(predictor, query)
            response = response_of(body, answer, query.k, predictor)
            outcome = "answered"
        finally:
            metrics.REQUESTS.labels(protocol, outcome).inc()
            metrics.SECONDS.labels(protocol).observe(time.perf_counter() - began)
        for source in answer.sources.tolist():
            metrics.USERS.labels(_WORDS[source]).inc()
        return response, {}

    def get_input_types(self) -> list[Any]:
        """The inputs, for the metadata call."""
        return described(self.loaded.predictor)[0]

    def get_output_types(self) -> list[Any]:
        """The outputs, likewise."""
        return described(self.loaded.predictor)[1]


class Repository(ModelRepositoryExtension):
    """The protocol's repository calls: a load takes what lies in the bundle's path now."""

    def __init__(self, models: ModelRepository, loaded: Loaded, name: str) -> None:
        super().__init__(models)
        self.loaded, self.name = loaded, name

    async def load(self, model_name: str) -> None:
        """Reload.

        Raises:
            ModelNotFound: there is no model of that name.
            InvalidInput: the bundle was refused; the one before goes on answering.
        """
        if model_name != self.name:
            raise ModelNotFound(f"{model_name:.80}")
        try:
            await self.loaded.reload()
        except CadcError as error:
            raise InvalidInput(f"{error} The bundle before goes on answering.") from None

    async def unload(self, model_name: str) -> None:
        """Refuse: the service has one model, and ends when it is stopped.

        Raises:
            ModelNotFound: there is no model of that name.
            InvalidInput: always.
        """
        if model_name != self.name:
            raise ModelNotFound(f"{model_name:.80}")
        raise InvalidInput("the model cannot be unloaded; stop the service instead.")

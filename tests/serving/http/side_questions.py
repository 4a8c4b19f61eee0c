"""Checks of similar items, scores and vectors beside recommendations, see `test_side_models`.

Each runs in a process of its own, without a server: the models are called as the server calls them.

python side_questions.py FUNCTION
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.grpc.grpc_predict_v2_pb2 import InferParameter

from cadc_rec.serving.http import page, recommender
from cadc_rec.serving.http import side_models as module
from cadc_rec.serving.http.load import Busy, ServiceTimes, TooLate
from cadc_rec.serving.http.messages import Input, Parameters, Request
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.settings import Limits
from tests.serving.toy import toy


class Loaded:
    """A toy whose similar items wait for `go`, and which is loaded whole once `whole` is true."""

    def __init__(self) -> None:
        self.predictor, self.whole = toy(), True
        self.began, self.go = threading.Event(), threading.Event()
        similar = self.predictor.similar_items

        def waits(*given: Any) -> Any:
            self.began.set()
            assert self.go.wait(20)
            return similar(*given)

        object.__setattr__(self.predictor, "similar_items", waits)

    async def until_whole(self, seconds: float) -> bool:
        return self.whole


def models(**limits: Any) -> tuple[Any, Recommender, list[Any]]:
    loaded: Any = Loaded()
    main = Recommender("m", loaded, Limits(**limits))
    return loaded, main, module.side_models(main)


def close(main: Recommender, beside: list[Any]) -> None:
    main.close()
    for one in beside:
        one.close()


def request(items: list[int], users: list[int] | None = None, **parameters: Any) -> Request:
    given = {"item_id": items, **({"user_id": users} if users else {})}
    return Request(
        inputs=[
            Input(name=name, shape=[len(ids)], datatype="INT64", data=ids)
            for name, ids in given.items()
        ],
        parameters=Parameters(**parameters),
    )


async def answered(model: Any, asked: Request) -> list[str]:
    async with model.answer("rest", lambda: asked) as found:
        return [output.name for output in found.outputs()]


def a_long_question_keeps_no_other_one_waiting() -> None:
    loaded, main, (similar, score, embed) = models()
    similar._times.add(1, 5, 3.0)

    async def ask() -> None:
        long = asyncio.create_task(answered(similar, request([1000], k=5)))
        await asyncio.get_running_loop().run_in_executor(None, loaded.began.wait, 20)
        assert (await answered(score, request([1000], [100])))[0] == "score"
        assert (await answered(embed, request([1000])))[0] == "vector"
        assert not main.load.full
        assert main.load.wait == 0.0
        due = main.load.clock() + 1
        main.load.dropped(main.load.admit(1, 10, False, main.load.clock(), due))
        loaded.go.set()
        assert (await long)[0] == "item_id"

    asyncio.run(ask())
    # Neither is what a recommendation is expected to take, nor another question.
    assert main.load.times.expected(1, 5) < 0.1
    assert score._times.expected(1, 5) < 1
    close(main, [similar, score, embed])


def a_question_has_a_deadline() -> None:
    loaded, main, beside = models()
    similar, _, embed = beside
    similar._times.add(1, 5, 3.0)
    history = Input(name="history", shape=[1, 1], datatype="INT64", data=[1000])

    async def ask() -> None:
        with pytest.raises(TooLate, match="longer than the deadline"):
            await answered(similar, request([1000], k=5, timeout=2_000_000))
        assert not loaded.began.is_set()
        threads = similar._threads
        ticket = threads.load.admit(1, 1, False, 0.0, threads.load.clock() + 0.02)
        await asyncio.sleep(0.03)
        with pytest.raises(TooLate, match="before its turn came"):
            await threads.answer(ticket, loaded.began.set)
        threads.load.sent(ticket)
        assert not loaded.began.is_set()
        assert threads.load.wait == 0.0
        loaded.whole = False
        with pytest.raises(TooLate, match="still being loaded"):
            await answered(embed, Request(inputs=[history]))

    asyncio.run(ask())
    close(main, beside)


def a_large_answer_is_encoded_off_the_loop() -> None:
    loaded, main, beside = models()
    loaded.go.set()
    threads: list[str] = []
    encode = recommender.to_kserve

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return encode(*given)

    recommender.to_kserve = noted

    async def ask(items: int) -> Any:
        ids = InferInput("item_id", [items], "INT64")
        ids.set_data_from_numpy(np.full(items, 1000), binary_data=False)
        body = InferRequest(
            "m-similar", [ids], parameters={"k": InferParameter(int64_param=40)}, from_grpc=True
        )
        return (await beside[0](body))[0]

    asyncio.run(ask(1))
    large = asyncio.run(ask(120))
    assert [output.name for output in large.outputs] == ["item_id", "score", "count"]
    assert threads[0] == "MainThread"
    assert threads[1].startswith("encoder")
    assert list(large.outputs[0].shape) == [120, 40]
    close(main, beside)


def the_page_asks_for_similar_items_as_all_do() -> None:
    loaded, main, beside = models(k=20)
    loaded.go.set()
    similar = endpoint(page.page_routes(main, beside[0]), "/explore/similar")
    lines = asyncio.run(similar(item="1003", k=20))
    found = loaded.predictor.similar_items([1003], 20)
    assert [line["id"] for line in lines] == [str(item) for item in found.item_ids[0]]
    assert [line["title"] for line in lines][:3] == [f"Title {row}" for row in found.rows[0, :3]]
    np.testing.assert_allclose([line["score"] for line in lines], found.scores[0], rtol=1e-6)
    with pytest.raises(InvalidInput, match="'k' = 21 is not between 1 and 20"):
        asyncio.run(similar(item="1003", k=21))
    beside[0]._threads.load.admit(1, 1, False, 0.0, np.inf, times=Slow())
    with pytest.raises(Busy):
        asyncio.run(similar(item="1003", k=20))
    for unknown in ("999", "x", ""):
        with pytest.raises(InvalidInput, match=f"no item has the id '{unknown}'"):
            asyncio.run(similar(item=unknown, k=20))
    close(main, beside)


class Slow(ServiceTimes):
    """Of something that takes an hour."""

    def expected(self, users: int, k: int) -> float:
        return 3600.0


def the_page_samples_users_once_a_bundle() -> None:
    loaded, main, beside = models()
    threads: list[str] = []
    sample = page._sample_users

    def noted(predictor: Any) -> Any:
        threads.append(threading.current_thread().name)
        return sample(predictor)

    page._sample_users = noted
    start = endpoint(page.page_routes(main, beside[0]), "/explore/start")
    first, second = asyncio.run(start()), asyncio.run(start())
    assert first == second
    # Of the toy's users, four took 3 items, four 4, and so on to 7.
    assert [user["taken"] for user in first["sample_users"]] == [3, 3, 4, 5, 6, 7]
    loaded.predictor = toy(n_users=2)
    object.__setattr__(loaded.predictor, "fingerprint", "e" * 64)
    assert [user["id"] for user in asyncio.run(start())["sample_users"]] == ["100", "101"]
    assert len(threads) == 2
    assert all(name.startswith("encoder") for name in threads)
    close(main, beside)


def endpoint(routes: Any, path: str) -> Any:
    return next(route.endpoint for route in routes.routes if route.path == path)


if __name__ == "__main__":
    globals()[sys.argv[1]]()

"""The models like HSTU and eSASRec compute what their papers say, see no future, and learn."""

from itertools import count

import numpy as np
import pytest
import torch

from benchmarks.time_to_quality import esasrec, hstu
from benchmarks.time_to_quality.esasrec import ESASRec, LiGR
from benchmarks.time_to_quality.histories import Histories
from benchmarks.time_to_quality.hstu import BUCKETS, HSTU, Unit, gap_buckets
from benchmarks.time_to_quality.sequences import metrics, user_vectors
from tests.benchmarks.sequences import cycles

SMALL = {"length": 6, "width": 16, "heads": 2, "batch": 16, "negatives": 8, "learning_rate": 0.01}
HSTU_SMALL = hstu.Settings(**SMALL)
LIGR_SMALL = esasrec.Settings(**SMALL)
TIMES = torch.tensor([[0, 60, 3600, 3600, 90_000, 10_000_000]]).expand(3, -1)


def models():
    torch.manual_seed(0)
    return {
        "hstu": HSTU(12, HSTU_SMALL, timed=False),
        "hstu, timed": HSTU(12, HSTU_SMALL, timed=True),
        "esasrec": ESASRec(12, LIGR_SMALL),
    }


@pytest.mark.parametrize("name", models())
def test_what_comes_later_changes_nothing_before_it(name):
    model = models()[name].eval()
    one = torch.randint(12, (3, 6))
    other, later = one.clone(), TIMES.clone()
    other[:, 4:] = (other[:, 4:] + 5) % 12
    later[:, 4:] += 12_345
    a, b = model(one, TIMES), model(other, later)
    assert torch.equal(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 4], b[:, 4])


@pytest.mark.parametrize("name", models())
def test_padding_at_the_end_changes_no_users_vector(name):
    model = models()[name]
    items = np.array([[3, 4, 5, -1, -1, -1], [1, 2, 3, 4, 5, 6]], np.int32)
    times = np.array([[10, 70, 900, -1, -1, -1], [1, 2, 3, 4, 5, 6]])
    together = user_vectors(model, Histories(items, times))
    alone = model.eval()(torch.tensor([[3, 4, 5]]), torch.tensor([[10, 70, 900]]))[0, -1]
    torch.testing.assert_close(together[0], alone)


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def normalized(x, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("timed", [False, True])
def test_an_hstu_unit_is_the_papers_three_equations(timed):
    torch.manual_seed(1)
    unit = Unit(HSTU_SMALL, timed).eval()
    for weight in unit.parameters():
        weight.data.normal_(std=0.5)  # each matters
    x = torch.randn(2, 5, 16)
    seconds = np.array([[0, 60, 3600, 3600, 90_000], [7, 8, 10, 400, 401]])
    gaps = gap_buckets(torch.from_numpy(seconds)) if timed else None
    found = unit(x, gaps).detach().numpy()

    w, rows = numbers(unit), x.double().numpy()
    for sequence, times, result in zip(rows, seconds, found, strict=True):
        u, v, q, k = np.split(silu(normalized(sequence, 1e-6) @ w["joint.weight"].T), 4, axis=-1)
        seen = np.zeros((5, 16))
        for head in (slice(0, 8), slice(8, 16)):
            for i in range(5):
                for j in range(i + 1):
                    score = q[i, head] @ k[j, head] + w["by_places"][i - j]
                    if timed:
                        gap = max(1, abs(times[i] - times[j]))
                        score += w["by_time"][int(np.log(gap) / 0.301)]
                    seen[i, head] += silu(score) / 6 * v[j, head]  # 6 is Settings.length
        expected = sequence + (u * normalized(seen, 1e-6)) @ w["out.weight"].T + w["out.bias"]
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=2e-5)


def test_long_gaps_share_the_last_bucket():
    buckets = gap_buckets(torch.tensor([[0, 1, 10**9, 10**10]]))[0]
    assert buckets.min() == 0
    assert buckets[0, 2] == buckets[0, 3] == BUCKETS - 1
    assert buckets[0, 1] == buckets[1, 0] == 0  # a second and less


def test_the_biases_learn_as_they_do_by_indexing():
    table, codes = torch.randn(5, requires_grad=True), torch.tensor([[0, 3], [3, 4]]).int()
    weights = torch.tensor([[1.0, 2.0], [10.0, 5.0]])
    (hstu._Looked.apply(table, codes) * weights).sum().backward()
    assert table.grad.tolist() == [1.0, 0.0, 0.0, 12.0, 5.0]


def test_hstu_scores_by_cosine_over_the_temperature():
    torch.manual_seed(0)
    model = HSTU(12, HSTU_SMALL, timed=False).eval()
    lengths = model(torch.tensor([[1, 2, 3]])).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((1, 3), 1 / HSTU_SMALL.temperature))
    torch.testing.assert_close(model.candidates(torch.arange(12)).norm(dim=-1), torch.ones(12))


def test_a_ligr_layer_is_two_gated_halves():
    torch.manual_seed(1)
    layer = LiGR(LIGR_SMALL).eval()
    for weight in layer.parameters():
        weight.data.normal_(std=0.5)
    x = torch.randn(1, 5, 16)
    found = layer(x).detach()[0].numpy()

    w, x = numbers(layer), x[0].double().numpy()

    def linear(name, values):
        return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(number, values):
        return normalized(values, 1e-5) * w[f"norms.{number}.weight"] + w[f"norms.{number}.bias"]

    def gated(number, values, added):
        return values + added / (1 + np.exp(-linear(f"gates.{number}", values)))

    q, k, v = np.split(linear("halves.0.joint", norm(0, x)), 3, axis=-1)
    seen = np.zeros((5, 16))
    for head in (slice(0, 8), slice(8, 16)):
        for i in range(5):
            chances = np.exp(k[: i + 1, head] @ q[i, head] / np.sqrt(8))
            seen[i, head] = chances / chances.sum() @ v[: i + 1, head]
    x = gated(0, x, linear("halves.0.out", seen))
    gate, up = np.split(norm(1, x) @ w["halves.1.gate_and_up.weight"].T, 2, axis=-1)
    x = gated(1, x, (silu(gate) * up) @ w["halves.1.down.weight"].T)
    np.testing.assert_allclose(found, x, rtol=1e-3, atol=2e-5)


def test_mixed_negatives_are_different_and_the_wanted_share_is_of_the_batch():
    torch.manual_seed(0)
    settings = esasrec.Settings(length=6, width=16, negatives=50, in_batch=0.4)
    model = ESASRec(1000, settings, np.ones(1000, np.int64))
    targets = torch.arange(900, 1000)
    found = model.negatives(targets)
    assert len(found) == 50 == len(found.unique())
    assert torch.isin(found[:20], targets).all()
    assert torch.isin(found[20:], targets).sum() < 15  # of 30 uniform ones, 3 are to be expected


def test_mixed_negatives_are_corrected_by_the_logarithm_of_their_probability():
    counts = np.array([6, 3, 1, 0])
    settings = esasrec.Settings(length=6, width=16, in_batch=0.6)
    model = ESASRec(4, settings, counts)
    chances = 0.6 * np.array([0.6, 0.3, 0.1, 0.0]) + 0.4 / 4
    torch.testing.assert_close(model.bias, torch.from_numpy(-np.log(chances)).float())
    assert ESASRec(4, esasrec.Settings(length=6, width=16)).bias is None


@pytest.mark.parametrize("name", ["hstu", "hstu, timed", "esasrec", "esasrec, mixed"])
def test_it_learns_what_is_certain(name):
    steps = count().__next__  # each step takes a second of this clock
    module, settings, more = hstu, HSTU_SMALL, {}
    if "timed" in name:
        more = {"timestamp_kind": "clock", "time_unit": "s", "train_time": np.arange(64 * 8.0)}
    if "esasrec" in name:
        share = 0.5 if "mixed" in name else 0.0
        module, settings = esasrec, esasrec.Settings(**SMALL, in_batch=share)
    data = cycles(64, **more)
    if more:
        object.__setattr__(data, "val_timestamp", np.arange(64) * 8.0 + 8)
    early, late = module.curve(data, settings, 0, [1, 60], sample=None, clock=steps)
    assert (early.cpu_seconds, late.cpu_seconds) == (1, 60)
    assert late.test["ndcg@10"] > 0.95 > early.test["ndcg@10"]


def test_items_are_ranked_by_the_vectors_that_the_loss_scores():
    model, data = models()["hstu"], cycles()
    _, found = metrics(model, data, None)
    hits = []
    for user in range(60):
        taken = [(user + n) % 12 for n in range(9)]
        vector = model.eval()(torch.tensor([taken[-6:]]))[0, -1]
        scores = (model.candidates(torch.arange(12)) @ vector).detach().numpy()
        left = [i for i in range(12) if i not in taken]
        rank = sum(scores[i] >= scores[data.test_item[user]] for i in left)
        hits.append(1 / np.log2(rank + 1))
    assert found["ndcg@10"] == pytest.approx(np.mean(hits))

"""The tournament of GPU kernels: who wins, and that lookups take the winners. Its dry run is in test_gpu_day."""

import json

import pytest
import torch

pytest.importorskip("triton")

from torchrec_pss.ops.triton import tiling
from torchrec_pss.ops.triton.launches import Launch, ProjectionLaunch
from torchrec_pss.ops.triton.variants import Backward, Forward, Product, Projection

GROUP = Launch(1, 8, 64, True, True, True, False, True, None)
FEW, MANY = tiling.kind_of(GROUP, 1), tiling.kind_of(GROUP, 20)


def round_of(kernel, kind, gains):
    from dataclasses import asdict

    ranked = [{"variant": asdict(v), "microseconds": 100 / g, "gain": g} for v, g in gains.items()]
    return {"kernel": kernel, "kind": kind, "ranked": ranked, "failed": {}}


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "CHOSEN", tmp_path / "chosen.json")
    tiling._chosen.cache_clear()
    yield tmp_path / "chosen.json"
    tiling._chosen.cache_clear()


def test_winners_are_best_on_average_over_a_kinds_cases_and_are_taken(chosen):
    from benchmarks.gpu_tournament import winners

    default, one_case, best = Forward(64, 4), Forward(32, 2), Forward(16, 1, 8, 4, ".cs", None, Product(16, 2, True))
    rounds = [
        round_of("forward", MANY, {one_case: 2.0, best: 1.5, default: 1.0}),
        round_of("forward", MANY, {best: 1.5, default: 1.0, one_case: 0.5}),
        round_of("forward", FEW, {best: 1.02, default: 1.0}),
        round_of("backward", FEW, {Backward(8, 1, 32, 4, True): 1.2, Backward(16, 1, 32): 1.0}),
        round_of("projection", tiling.kind_of(ProjectionLaunch(8, 64, True, None)), {Projection(16, 64, 4, True, True): 1.3}),
    ]  # fmt: skip
    chosen.write_text(json.dumps(winners({"rounds": rounds})))
    choice = tiling.current()
    assert choice.forward(GROUP, 20.0) == best
    assert choice.forward(GROUP, 1.0) == tiling.forward_rule(GROUP, 1.0)  # 2 % are noise
    assert choice.backward(GROUP, 1.0) == Backward(8, 1, 32, 4, True)
    assert choice.projection(ProjectionLaunch(8, 64, True, None)) == Projection(16, 64, 4, True, True)
    assert choice.projection(ProjectionLaunch(16, 64, True, None)).reads is False


def test_a_default_that_fails_ends_no_tournament(monkeypatch):
    """Nor does a worker whose device is lost tell of others than the candidate that lost it."""
    from benchmarks import gpu_tournament as own

    def fails(case):
        raise RuntimeError("Triton Error [CUDA]: misaligned address")

    monkeypatch.setattr(own, "_lookup_of_worker", fails)
    monkeypatch.setattr(own, "_lost", [])
    told = [own.compile_one((own._DRY, "forward", 0, None)) for _ in range(2)]
    assert "misaligned" in told[0] and told[1] is None
    monkeypatch.setattr(own, "candidates_of", lambda *_: [Forward(16, 2)])
    known = own.Lookup(lambda: fails(None), None, [GROUP], [], 1.0)
    with pytest.raises(RuntimeError, match="misaligned"):
        own.race(own._DRY, known, "forward", 0, "cpu", None)
    known = known._replace(forward=lambda: torch._C._nn.linear(torch.ones(2), torch.ones(3)))
    monkeypatch.setattr(own.tiling, "kind_of", lambda *_: "a kind")
    monkeypatch.setattr(own.Launch, "num_features", 3)
    found = own.race(own._DRY, known, "forward", 0, "cpu", None)
    assert found["ranked"] == [] and len(found["failed"]) == 1 and own.winners({"rounds": [found]}) == {}


def test_the_committed_choice_can_be_read():
    for variants in tiling._chosen().values():
        assert all(isinstance(v, (Forward, Backward, Projection)) for v in variants.values())

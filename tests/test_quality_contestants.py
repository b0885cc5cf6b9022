"""The lab's contestants: equal bytes, their papers' formulas, and trials of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.quality import (
    click_data,
    pair_trial,
    rivals,
    sequence_trial,
)
from benchmarks.quality.click_trial import ClickTrial
from benchmarks.quality.click_trial import run as run_trial
from benchmarks.quality.composed import Clustered, DoubleHash, Quotient, TensorTrain, factors
from benchmarks.quality.pair_trial import PairTrial
from benchmarks.quality.sequence_trial import SequenceTrial
from torchrec_pss.datasets.interactions import Interactions
from torchrec_pss.modules.id_counts import IdCounts
from torchrec_pss.ops.quantize import quantize
from torchrec_pss.optim.parameter_restart import ParameterRestart


@pytest.fixture(scope="module")
def log():
    return click_data.generated(4000, 0.0005, 1.1)


def counts_of(log_):
    return {f"t{i}": c for i, c in enumerate(log_.counts)}


def stored_bytes(module):
    """Of parameters and hot rows' keys: 11 bits of a short one."""
    layouts = {id(m.layout): m.layout for m in module.modules() if hasattr(m, "layout")}
    keys = sum(
        -(-11 * len(k) // 8) if short else 4 * len(k)
        for k, short in ((la.hot_keys, la.has_short_keys) for la in layouts.values())
    )
    return 4 * sum(parameter.numel() for parameter in module.parameters()) + keys


@pytest.mark.parametrize("compression", [4, 12, 60])
@pytest.mark.parametrize("name", rivals.ALL)
def test_no_contestant_exceeds_the_budget(name, compression, log):
    """And the bytes that it states are those of its parameters (and hot keys)."""
    configs = rivals.tables_of(log.num_embeddings, 16)
    budget = sum(log.num_embeddings) * 64 // compression
    contestant = rivals.ALL[name]
    for variant, _ in contestant.trials:
        try:
            module, size = contestant.build(configs, budget, counts_of(log), variant)
        except ValueError:
            continue
        assert size == stored_bytes(module)
        assert size <= budget or name == "full"
        ids = log.ids[:, :9]
        kjt = KeyedJaggedTensor([f"f{i}" for i in range(26)], ids.flatten(), lengths=torch.ones(ids.numel()).int())
        out = module(kjt).values()
        assert out.shape == (9, 26 * 16)
        out.square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("name", ["pss", "narrow", "PSS plain", "CAFE", "row hashing", "ROBE", "QR", "tensor train"])
def test_in_four_bits_as_many_stored_bytes_hold_more(name, log):
    configs, budget = rivals.tables_of(log.num_embeddings, 16), sum(log.num_embeddings) * 64 // 20
    contestant = rivals.CONTESTANTS[name]
    module, size = contestant.built(configs, budget, counts_of(log), contestant.trials[0][0], 4)
    numbers = sum(p.numel() for p in module.parameters())
    assert size <= budget and 0.5 * budget < 0.53125 * numbers < 1.1 * budget  # 4 bits, and a scale for 64 of them
    ids = log.ids[:, :9]
    kjt = KeyedJaggedTensor([f"f{i}" for i in range(26)], ids.flatten(), lengths=torch.ones(ids.numel()).int())
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    with contestant.read_in(module, 4):
        for parameter in [] if contestant.is_layout else module.parameters():
            assert torch.equal(quantize(parameter.data.flatten(), 4), parameter.data.flatten())
        read = module(kjt).values()
        read.square().sum().backward()
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    assert any(bool(p.grad.any()) for p in module.parameters() if p.grad is not None)
    outside = module(kjt).values()
    assert torch.equal(read, outside) == contestant.is_layout  # the array quantises by itself


def test_full_tables_keep_their_bits(log):
    configs = rivals.tables_of(log.num_embeddings, 16)
    contestant = rivals.CONTESTANTS["full"]
    module, size = contestant.built(configs, 1, counts_of(log), None, 4)
    assert size == stored_bytes(module) and module.config.bits == 32


def test_quotient_remainder_tells_all_rows_apart():
    module = Quotient(1000, 8, 10)
    assert sum(p.numel() for p in module.parameters()) == Quotient.rows_needed(1000, 10) * 8 == 110 * 8
    out = module(torch.arange(1000))
    assert len(out.unique(dim=0)) == 1000
    torch.testing.assert_close(out[357], module.remainder.weight[57] * module.quotient.weight[3])


def test_tensor_train_is_the_product_of_its_cores():
    module = TensorTrain(1000, 16, 3)
    n1, n2, n3 = factors(1000)
    assert n1 * n2 * n3 >= 1000
    assert sum(p.numel() for p in module.parameters()) == TensorTrain.numel_needed(1000, 16, 3)
    rows = torch.tensor([777, 3, 999, 777, 0, 421])
    a, b, c = (core[i] for core, i in zip(module.cores, (rows // (n2 * n3), rows // n3 % n2, rows % n3), strict=True))
    torch.testing.assert_close(module(rows), torch.einsum("nxpr,nrqs,nsty->npqt", a, b, c).flatten(1))
    assert module(rows[:0]).shape == (0, 16)
    assert 0.01 < float(module(torch.arange(1000)).std()) < 0.1


def test_double_hashing_sums_two_rows():
    module = DoubleHash("t", 5000, 100, 8)
    places = module._places
    assert (places[:, 0] != places[:, 1]).float().mean() > 0.95
    torch.testing.assert_close(module(torch.tensor([4321]))[0], module.table.weight[places[4321]].sum(0))


def test_clustering_keeps_what_was_learnt():
    """Rows that form 4 groups are read back after clustering into 64; odds of 1e-7 that no centre starts in one."""
    module = Clustered("t", 2000, 64, 8)
    groups = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for column in range(4):
            module._places[:, 2 * column] = torch.arange(2000) % 4
            module.tables[2 * column].weight[:4] = groups
            module.tables[2 * column + 1].weight.zero_()
    before = module(torch.arange(2000))
    module.cluster(torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(torch.arange(2000)), before, rtol=1e-4, atol=1e-5)  # a mean of hundreds of equals
    assert all(float(module.tables[2 * c + 1].weight.detach().abs().sum()) == 0 for c in range(4))


def test_a_trial_learns_and_repeats(log):
    first, second = (run_trial(log, ClickTrial("pss", 30.0, batch_size=64, points=2)) for _ in range(2))
    assert first == second and len(first["curve"]) == 2 and first["curve"][-1][1] > 0.55
    assert 0 < first["lost_share"] < 1 and first["bytes"] <= first["budget"]


@pytest.mark.parametrize("name", ["QR", "pss"])
def test_several_passes_begin_anew(name, log, monkeypatch):
    """The last pass begins with the first values of what the contestant stores, be it a layout of the array or not."""
    seen = []
    restart = ParameterRestart.restart

    def watched(self, optimizer):
        moved = [p.detach().clone() for p in self._first]
        restart(self, optimizer)
        seen.append((moved, [p.detach().clone() for p in self._first]))

    monkeypatch.setattr(ParameterRestart, "restart", watched)
    once, thrice = (run_trial(log, ClickTrial(name, 10.0, batch_size=64, passes=n)) for n in (1, 3))
    (moved, first), (_, first_again) = seen
    assert first and all(torch.equal(a, b) for a, b in zip(first, first_again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, moved, strict=True))
    assert once["auroc_test"] != thrice["auroc_test"] and once["bytes"] == thrice["bytes"]


def test_of_several_passes_the_last_clusters(log, monkeypatch):
    events = []
    monkeypatch.setattr(ParameterRestart, "restart", lambda self, optimizer: events.append("restart"))
    monkeypatch.setattr(Clustered, "cluster", lambda self, generator: events.append("cluster"))
    run_trial(log, ClickTrial("CCE", 10.0, batch_size=64, passes=3))
    assert events == ["restart"] * 2 + ["cluster"] * len(log.num_embeddings)


@pytest.fixture(scope="module")
def pairs():
    """Users of two kinds, who like the even or the odd items, and low numbers more."""
    rng = np.random.default_rng(0)
    users = rng.integers(0, 300, 60_000)
    items = (200 * rng.random(60_000) ** 3).astype(np.int64) * 2 + users % 2
    return Interactions(users[:55_000], items[:55_000], users[55_000:], items[55_000:], 300, 400)


@pytest.mark.parametrize("name", rivals.CONTESTANTS)
def test_sequence_contestants_keep_the_budget(name, pairs):
    """And each, on two users' items, gives a logit a candidate; a user's own target is hidden from its history."""
    counts = IdCounts.of(pairs.train_item)
    for variant, _ in sequence_trial.CONTESTANTS[name]:
        table = EmbeddingConfig(
            name="item", num_embeddings=400, embedding_dim=64, feature_names=["history", "candidate"]
        )
        budget = 400 * 64 * 4 // 10
        if name == "mixed dimensions":  # the one table is the smallest
            with pytest.raises(ValueError, match="no alpha up to 2 fits"):
                sequence_trial.build(name, table, budget, counts, variant)
            continue
        embeddings, size = sequence_trial.build(name, table, budget, counts, variant)
        assert size == stored_bytes(embeddings) and (name == "full" or size <= budget)
        model = sequence_trial.SequenceModel(embeddings, 400)
        histories = sequence_trial.Histories(pairs.train_user, pairs.train_item, 300)
        users, targets = torch.tensor([3, 4]), torch.tensor([9, 8])
        history, known = histories.sample(users, targets, torch.Generator().manual_seed(0))
        assert (history % 2 == torch.tensor([[1], [0]])).all() and not (history[known] == 9).any()
        logits = model(history, known, torch.tensor([[9, 1, 2], [8, 5, 7]]))
        assert logits.shape == (2, 3)
        logits.sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in embeddings.parameters())


@pytest.mark.parametrize("name", rivals.CONTESTANTS)
def test_two_tower_contestants_learn_within_the_budget(name, pairs):
    trial = PairTrial(name, 1.0 if name == "full" else 10.0, epochs=2)
    if name in ("QR", "mixed dimensions"):
        with pytest.raises(ValueError, match="fit"):
            pair_trial.run(pairs, trial)
        trial = replace(trial, compression=1.2)
    found = pair_trial.run(pairs, trial)
    assert found["bytes"] <= found["budget"] and found["curve"][-1][1] == found["auroc_test"] > 0.6


@pytest.mark.parametrize("lab, trial", [(pair_trial, PairTrial), (sequence_trial, SequenceTrial)])
def test_pairs_are_clustered_halfway(lab, trial, pairs, monkeypatch):
    events = []
    monkeypatch.setattr(Clustered, "cluster", lambda self, generator: events.append("cluster"))
    evaluated = "evaluate" if lab is pair_trial else "_auroc"
    owner = pair_trial.interaction_training if lab is pair_trial else lab
    judged = getattr(owner, evaluated)
    monkeypatch.setattr(owner, evaluated, lambda *a: events.append("judged") or judged(*a))
    lab.run(pairs, trial("CCE", 10.0, epochs=4))
    tables = 2 if lab is pair_trial else 1
    assert events == ["judged"] * 2 + ["cluster"] * tables + ["judged"] * 3


def test_a_sequence_trial_learns_and_repeats(pairs):
    first, second = (sequence_trial.run(pairs, SequenceTrial("pss", 10.0, epochs=2)) for _ in range(2))
    assert first == second and first["curve"][-1][1] > 0.7
    with pytest.raises(ValueError, match="width 1"):
        sequence_trial.run(pairs, SequenceTrial("narrow", 100.0))

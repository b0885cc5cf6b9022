"""The hash as a random function. Each test states the odds of failing for a truly random one; seeds are fixed, so a test
that passes goes on passing."""

import math

import torch

from torchrec_pss.ops import hashing

ROWS = 400_000
KEY = hashing.table_key("table", 0)


def hashes(num_blocks=4, ids=None, key=KEY):
    return hashing.block_hashes(key, torch.arange(ROWS) if ids is None else ids, num_blocks)


def chi_square_z(counts, expected):
    """Chi-square of counts against equal expectation, as a z-score (many cells: nearly normal)."""
    cells = counts.numel()
    chi = float(((counts.double() - expected) ** 2 / expected).sum())
    return (chi - (cells - 1)) / math.sqrt(2 * (cells - 1))


def test_slots_are_uniform():
    """Four blocks and three kinds of ids; |z| > 5 in any of 12 has odds of about 1e-5."""
    families = [torch.arange(ROWS), torch.arange(ROWS) << 40, torch.arange(ROWS) * 4096 - (1 << 62)]
    for ids in families:
        places = hashing.slots(hashes(ids=ids), 1000)
        assert places.min() >= 0 and places.max() < 1000
        for block in range(4):
            assert abs(chi_square_z(torch.bincount(places[:, block], minlength=1000), ROWS / 1000)) < 5


def test_slots_reach_both_ends_of_a_large_array():
    """With 2^32 - 1 slots and 1.6 M draws the extremes lie within 1e-5 of the ends; odds of missing 1e-6."""
    places = hashing.slots(hashes(), (1 << 32) - 1)
    assert places.min() < 1e-5 * 2**32 and places.max() > (1 - 1e-5) * 2**32


def test_rows_that_meet_in_one_block_meet_in_another_no_more_than_by_chance():
    """Pairs that share block 0 (m slots): another block agrees for each with probability 1/m. Expected about 8,000
    pairs and 0.8 agreements a block; 12 or more in any of three has odds below 1e-9. The known linear hash: thousands."""
    slots = 10_000_000
    places = hashing.slots(hashes(), slots)
    order = places[:, 0].argsort()
    by_slot = places[order]
    twins = by_slot[1:][by_slot[1:, 0] == by_slot[:-1, 0]]
    partners = by_slot[:-1][by_slot[1:, 0] == by_slot[:-1, 0]]
    assert 7_000 < len(twins) < 9_000
    for block in (1, 2, 3):
        assert int((twins[:, block] == partners[:, block]).sum()) < 12


def test_the_known_linear_hash_fails_that_test():
    """The check above can fail: the authors' mapping gives the same pairs in every block (or a shifted place)."""
    places = hashing.robe_offsets(0, torch.arange(ROWS), 4, 2_000_003)
    by_slot = places[places[:, 0].argsort()]
    same = by_slot[1:, 0] == by_slot[:-1, 0]
    assert int((by_slot[1:, 1][same] == by_slot[:-1, 1][same]).sum()) > 1000


def test_blocks_and_tables_are_independent():
    """Joint distribution of the slots of two blocks, and of one block in two tables, on a 30 x 30 grid: |z| > 5 in any
    of four has odds of about 3e-6."""
    mine, other = hashing.slots(hashes(), 30), hashing.slots(hashes(key=hashing.table_key("tablf", 0)), 30)
    pairs = [(mine[:, 0], mine[:, 1]), (mine[:, 1], mine[:, 3]), (mine[:, 0], other[:, 0]), (mine[:-1, 0], mine[1:, 0])]
    for one, two in pairs:
        assert abs(chi_square_z(torch.bincount(one * 30 + two, minlength=900), len(one) / 900)) < 5


def test_signs_are_balanced_and_independent_of_the_slot():
    """Signs over all, within each of 100 slots, and between blocks: |z| > 5 or chi-square z > 5, odds below 1e-5."""
    h = hashes()
    signs, places = hashing.signs(h), hashing.slots(h, 100)
    for block in range(4):
        assert abs(float(signs[:, block].sum())) / math.sqrt(ROWS) < 5
        joint = torch.bincount(places[:, block] * 2 + (signs[:, block] > 0), minlength=200)
        assert abs(chi_square_z(joint, ROWS / 200)) < 5
    assert abs(float((signs[:, 0] * signs[:, 1]).sum())) / math.sqrt(ROWS) < 5


def test_every_input_bit_flips_half_of_the_output():
    """Avalanche: each of 64 id bits flips each of 64 hash bits with frequency 1/2 over 20,000 ids; a z beyond 6 in any of
    4,096 has odds of about 1e-5."""
    ids = torch.arange(20_000) * 0x3C6EF372FE94F82B
    before = hashes(1, ids)[:, 0]
    for bit in range(64):
        flipped = before ^ hashes(1, ids ^ hashing.to_signed(1 << bit))[:, 0]
        ones = torch.stack([((flipped >> out) & 1).sum() for out in range(64)]).double()
        assert float(((ones - 10_000).abs() / math.sqrt(5_000)).max()) < 6


def test_keys_depend_on_every_letter_and_on_the_seed():
    names = [f"t_cat_{i}" for i in range(2000)]
    keys = {hashing.table_key(name, seed) for name in names for seed in (0, 1, -1)}
    assert len(keys) == 6000

"""Corrupted replicas are found and named."""

import pytest
import torch
import two_ranks

from torchrec_pss.distributed.replica_check import ReplicaMismatchError, check_replicas, checksum


def checked(rank, world_size, corrupt):
    """The error on this rank after one bit of one element on the rank ``corrupt`` was turned over; None without one."""
    parameters = {"dense": torch.arange(10.0), "array": torch.linspace(-1, 1, 1001).to(torch.bfloat16)}
    if rank == corrupt:
        parameters["array"].view(torch.int16)[500] ^= 1
    try:
        check_replicas(parameters.items())
    except ReplicaMismatchError as error:
        return str(error)
    return None


def test_equal_replicas_pass(tmp_path):
    assert two_ranks.run(checked, tmp_path, None) == [None, None]


def test_a_corrupted_replica_is_named_on_every_rank(tmp_path):
    assert two_ranks.run(checked, tmp_path, 1, world_size=3) == ["replicas differ: 'array' on rank [1]"] * 3
    assert two_ranks.run(checked, tmp_path, 1) == ["replicas differ: 'array' on ranks 0 to 1 (no majority)"] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_the_checksum_sees_every_element_and_the_order(dtype):
    tensor = torch.randn(300, generator=torch.Generator().manual_seed(0)).to(dtype)
    first = checksum(tensor)
    assert checksum(tensor.clone()) == first
    for place in range(len(tensor)):
        other = tensor.clone()
        other[place] = -other[place]
        assert checksum(other) != first
    assert checksum(tensor.flip(0)) != first

"""Criteo's logs through a `DataLoader`: all rows once, in order, whatever the ranks and workers, and a pass that goes on where it stopped."""

import pytest
from click_lines import row_of, write_rows
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from torchrec_pss.datasets import ClickDataset
from torchrec_pss.datasets.errors import BadRowsError
from torchrec_pss.datasets.rows import PADDING_LABEL, SPARSE_NAMES

ROWS, SIZE = 1000, 32
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "rows.tsv", range(ROWS))


def rows_of(batch):
    """The numbers of its rows; padding is none."""
    true = batch.labels != PADDING_LABEL
    return row_of(batch.sparse_features[SPARSE_NAMES[0]].values()[true].numpy())


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 3])
def test_all_rows_once_and_in_order(path, workers, world_size):
    of_rank = []
    for rank in range(world_size):
        data = ClickDataset(path, SIZE, train_fraction=0.8, rank=rank, world_size=world_size)
        found = [rows_of(batch) for batch in DataLoader(data, batch_size=None, num_workers=workers)]
        assert len(found) == len(data) == -(-800 // (SIZE * world_size))
        of_rank.append(found)
    read = [row for step in zip(*of_rank, strict=True) for rows in step for row in rows]
    assert read == list(range(800))


def test_the_parts(path):
    found = {
        part: [r for b in ClickDataset(path, 100, part, train_fraction=0.8) for r in rows_of(b)]
        for part in ("train", "val", "test")
    }
    assert found == {"train": list(range(800)), "val": list(range(800, 900)), "test": list(range(900, 1000))}


def test_a_pass_that_was_left_begins_anew(path):
    loader = DataLoader(ClickDataset(path, SIZE, train_fraction=0.8), batch_size=None)
    assert rows_of(next(iter(loader)))[0] == 0
    for _ in range(2):
        assert [r for b in loader for r in rows_of(b)] == list(range(800))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_where_its_state_was_taken(path, workers):
    def loader():
        data = ClickDataset(path, SIZE, train_fraction=0.8)
        return StatefulDataLoader(data, batch_size=None, num_workers=workers)

    first = loader()
    batches = iter(first)
    before = [r for _ in range(7) for r in rows_of(next(batches))]
    state = first.state_dict()
    del batches
    second = loader()
    second.load_state_dict(state)
    assert before + [r for b in second for r in rows_of(b)] == list(range(800))
    assert [r for b in second for r in rows_of(b)] == list(range(800))  # and the pass after it is whole


def test_bad_arguments_and_lines_are_named(path, tmp_path):
    for given, said in (
        ({"part": "all"}, "part must be one of train, val, test, got 'all'"), ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be from 0 to 1, got 2"), ({"train_fraction": 2}, "train_fraction must be between 0 and 1, got 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ClickDataset(**{"path": path, "batch_size": SIZE} | given)
    with pytest.raises(FileNotFoundError, match="nothing.tsv"):
        ClickDataset(tmp_path / "nothing.tsv", SIZE)
    lines = path.read_text().splitlines()
    (tmp_path / "bad.tsv").write_text("\n".join([*lines[:10], "x", "y", *lines[10:]]) + "\n")
    assert (
        sum(len(b.labels) for b in ClickDataset(tmp_path / "bad.tsv", SIZE, train_fraction=0.5, max_bad_rows=2)) == 499
    )
    with pytest.raises(BadRowsError, match="bad.tsv:11: 1 fields instead of 40"):
        list(ClickDataset(tmp_path / "bad.tsv", SIZE, train_fraction=0.5, max_bad_rows=1))

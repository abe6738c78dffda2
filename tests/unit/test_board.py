"""The board: what one process writes another reads, word by word, without a copy."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from sdwan.edge.board import DROP_SLOTS, GLOBAL_DTYPE, PATH_DTYPE, PEER_DTYPE, Board
from sdwan.model import PATHS_PER_PEER, DropReason


@pytest.mark.parametrize("peers_max", [1, 4, 256])
def test_a_new_board_is_zero_and_has_a_row_for_everybody(peers_max):
    board = Board.create(peers_max)
    assert (len(board.total), len(board.peers), len(board.paths)) == (
        1,
        peers_max,
        peers_max * PATHS_PER_PEER,
    )
    for rows in (board.total, board.peers, board.paths):
        assert not rows.view(np.uint8).any()


def test_what_the_writer_writes_the_reader_sees_at_once():
    writer = Board.create(4)
    reader = Board(os.dup(writer.descriptor), 4)
    writer.total[0]["heartbeat_ns"] = 1 << 60
    writer.total[0]["drops"][DropReason.FORGED] = 3
    writer.peers[3]["next_counter"] = 1 << 40
    writer.paths[3 * PATHS_PER_PEER + 7]["last_sequence"] = 0xFFFFFFFF
    assert reader.total[0]["heartbeat_ns"] == 1 << 60
    assert reader.total[0]["drops"][DropReason.FORGED] == 3
    assert reader.peers[3]["next_counter"] == 1 << 40
    assert reader.paths[31]["last_sequence"] == 0xFFFFFFFF


def test_rows_do_not_touch_each_other():
    board = Board.create(3)
    board.peers[1] = tuple(range(1, len(PEER_DTYPE) + 1))
    board.paths[8:16] = np.full(8, 7).astype(PATH_DTYPE)
    assert not board.peers[[0, 2]].view(np.uint8).any()
    assert not board.paths[:8].view(np.uint8).any()
    assert not board.paths[16:].view(np.uint8).any()
    assert not board.total.view(np.uint8).any()


@pytest.mark.parametrize("dtype", [GLOBAL_DTYPE, PEER_DTYPE, PATH_DTYPE], ids=["total", "peer", "path"])
def test_every_word_is_aligned_so_that_it_is_read_whole(dtype):
    assert dtype.itemsize % 8 == 0
    for name in dtype.names:
        field, offset = dtype.fields[name][:2]
        assert offset % field.base.itemsize == 0, name


def test_every_reason_has_a_slot():
    assert max(DropReason) < DROP_SLOTS


def test_a_board_of_another_size_is_refused():
    board = Board.create(1)
    with pytest.raises((ValueError, OSError)):
        Board(board.descriptor, 1 << 10)


@pytest.mark.parametrize("size_bytes", [0, 1 << 20])
def test_who_holds_the_descriptor_cannot_change_its_size(size_bytes):
    board = Board.create(1)
    with pytest.raises(PermissionError):
        os.ftruncate(board.descriptor, size_bytes)


def test_the_descriptor_is_not_inherited_unless_it_is_handed_over():
    board = Board.create(1)
    assert not os.get_inheritable(board.descriptor)
    assert os.fstat(board.descriptor).st_size < mmap.PAGESIZE

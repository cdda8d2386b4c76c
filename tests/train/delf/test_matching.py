from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from d2r.train.delf import matching
from d2r.train.delf.matching import matched
from d2r.train.delf.networks import LocalNetwork

CELLS = 16  # in a grid of 4 x 4


def descriptors(seed: int, photos: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(photos, CELLS, 8, generator=random), dim=2)


def places(photos: int) -> torch.Tensor:
    """Matches of equal views: each cell matches itself."""
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy"), dim=-1)
    return grid.reshape(1, CELLS, 2).repeat(photos, 1, 1)


def test_the_loss_is_the_cross_entropy_over_all_cells_but_those_near_the_match(monkeypatch) -> None:
    monkeypatch.setattr(matching, "_ASKED", CELLS)
    here, there = descriptors(0, 2), descriptors(1, 2)
    logits = torch.zeros(2, CELLS)
    found, attention = matching._direction(here, logits, there, logits, places(2))
    losses, shares = [], []
    for photo in range(2):
        for cell in range(CELLS):
            values = (there.reshape(-1, 8) @ here[photo, cell] / 0.07).numpy().astype(np.float64)
            row, column = divmod(cell, 4)
            away = np.hypot(*(np.indices((4, 4)).reshape(2, -1) - np.array([[row], [column]])))
            own = np.zeros(2 * CELLS, bool)
            own[photo * CELLS : (photo + 1) * CELLS] = (away < 1.6) & (away > 0)
            values[own] = -np.inf
            probability = np.exp(values[photo * CELLS + cell]) / np.exp(values).sum()
            losses.append(-np.log(probability))
            shares.append(probability)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(attention) == pytest.approx(np.log(2.0), rel=1e-4)  # for a logit of 0, whatever the target
    assert 0 < np.mean(shares) < 1


def test_cells_that_are_attended_weigh_more() -> None:
    here = descriptors(0, 2)
    there = here.clone()
    there[1] = descriptors(5, 1)[0]  # cells of the second photo do not find their match
    sure = torch.zeros(2, CELLS)
    unsure = sure.clone()
    unsure[1] = -8.0
    even, _ = matching._direction(here, sure, there, sure, places(2))
    uneven, _ = matching._direction(here, unsure, there, unsure, places(2))
    assert float(uneven) < 0.6 * float(even)


def test_attention_is_learned_without_a_change_of_the_features() -> None:
    network = LocalNetwork("resnet18", "delf", 8)
    views = torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8)
    found, logits = matching._describe(network, views)
    logits.sum().backward()
    assert network.attention.first.weight.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in network.body.parameters())
    assert found.norm(dim=-1).detach().numpy() == pytest.approx(1.0, abs=1e-4)


def test_nothing_that_matches_is_no_loss() -> None:
    here = descriptors(0, 1).requires_grad_()
    nowhere = torch.full((1, CELLS, 2), torch.nan)
    found, attention = matching._direction(here, torch.zeros(1, CELLS), here, torch.zeros(1, CELLS), nowhere)
    assert (found.item(), attention.item()) == (0.0, 0.0)
    found.backward()


def test_matches_are_counted_where_the_nearest_cell_is_the_right_one(monkeypatch) -> None:
    network = LocalNetwork("resnet18", "delf", 8)
    here = descriptors(0, 2)
    there = here.clone()
    there[1, 8:] = -there[1, 8:]  # a quarter of all cells find nothing
    logits = torch.zeros(2, 2, CELLS)
    logits[:, 1, 8:] = -1.0
    monkeypatch.setattr(matching, "_describe", lambda *_: (torch.stack([here, there]), logits))
    views = torch.zeros(2, 2, 3, 64, 64, dtype=torch.uint8)
    found = matched(network, [(views, torch.stack([places(2), places(2)]))])
    assert found["attended"] == 1.0
    assert 0.7 < found["all"] < 0.9

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from d2r.train.data import DecodedPictures
from d2r.train.delf import projection
from d2r.train.delf.networks import build_local_network
from d2r.train.delf.projection import fit_projection, fit_threshold


@pytest.fixture(scope="module")
def photos(landmarks: Path) -> DecodedPictures:
    return DecodedPictures(sorted(landmarks.rglob("*.png")), 160)


@pytest.mark.parametrize(("whiten", "kind"), [(0.0, "delf"), (1.0, "how")])
def test_projected_features_have_no_mean_and_the_variances_that_were_asked_for(photos, whiten, kind) -> None:
    torch.manual_seed(0)
    network = build_local_network("resnet18", kind, 8)
    fit_projection(network, photos, 0, whiten=whiten, attended=False)
    seen = torch.cat(
        [
            rows[torch.from_numpy(np.random.default_rng(projection.derived_seed(0, 1, number)).permutation(len(rows)))][
                :100
            ]
            for number, rows, _ in projection._cells(network, photos, 0, 100)
        ]
    )
    with torch.no_grad():
        found = network.projection(seen[:, :, None, None])[:, :, 0, 0].double()
    covariance = (found.T @ found / len(found)).numpy()
    variances = np.diag(covariance)
    assert np.abs(found.mean(dim=0).numpy()).max() < 1e-3 * np.sqrt(variances.max())
    assert np.abs(covariance - np.diag(variances)).max() < 1e-2 * variances.max()
    if whiten:
        assert variances == pytest.approx(1.0, rel=0.02)
    else:
        expected = np.linalg.eigvalsh(np.cov(seen.double().numpy().T, bias=True))[::-1][:8]
        assert variances == pytest.approx(expected, rel=0.02)


def test_a_quarter_of_the_cells_stay_below_the_threshold(photos) -> None:
    torch.manual_seed(0)
    network = build_local_network("resnet18", "how", 8)
    threshold = fit_threshold(network, photos, 0)
    attention = torch.cat([values for _, _, values in projection._cells(network, photos, 0, 40)])
    assert float((attention < threshold).float().mean()) == pytest.approx(0.25, abs=0.01)


def test_the_features_with_the_most_attention_are_taken(photos, monkeypatch) -> None:
    torch.manual_seed(0)
    network = build_local_network("resnet18", "how", 4)
    monkeypatch.setattr(projection, "_EACH", 5)
    fit_projection(network, photos, 0, whiten=0.0, attended=True)
    strongest = [
        rows[attention.argsort(descending=True)[:5]]
        for _, rows, attention in projection._cells(network, photos, 0, 100)
    ]
    with torch.no_grad():
        mean = network.projection(torch.cat(strongest).mean(dim=0)[None, :, None, None])
    assert float(mean.abs().max()) < 1e-3

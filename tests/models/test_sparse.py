"""Products at a sparse pattern against one dot product at a time."""

import pytest
import torch

from cadc_rec.models.sparse import products_at, weighted_sums

PATTERNS = {
    "plain": ([0, 2, 3, 3], [1, 3, 0], 4),
    "an entry twice": ([0, 3, 4, 4], [1, 1, 2, 0], 4),
    "more entries than places": ([0, 6], [0, 1, 1, 0, 1, 1], 2),
    "no entries": ([0, 0], [], 3),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_products_equal_one_dot_product_at_a_time(name):
    crow, col, columns = PATTERNS[name]
    left, right = torch.randn(len(crow) - 1, 5), torch.randn(columns, 5)
    got = products_at(
        torch.tensor(crow, dtype=torch.int32), torch.tensor(col, dtype=torch.int32), left, right
    )
    expected = [
        float(left[row] @ right[c])
        for row in range(len(left))
        for c in col[crow[row] : crow[row + 1]]
    ]
    assert got.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", PATTERNS)
def test_weighted_sums_are_a_matrix_times_a_table(name, index):
    crow, col, columns = PATTERNS[name]
    weights, table = torch.randn(len(col)), torch.randn(columns, 5)
    matrix = torch.zeros(len(crow) - 1, columns)
    for row in range(len(matrix)):
        for entry in range(crow[row], crow[row + 1]):
            matrix[row, col[entry]] += weights[entry]
    got = weighted_sums(
        torch.tensor(crow, dtype=index), torch.tensor(col, dtype=index), weights, table
    )
    torch.testing.assert_close(got, matrix @ table)

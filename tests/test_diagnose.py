"""The confusion matrix, against an independent count."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from diagnose import confusion_matrix

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1)


@given(pairs)
def test_every_cell_is_a_count_and_every_row_sum_a_class_count(pairs):
    labels, predicted = torch.tensor(pairs).unbind(dim=1)
    matrix = confusion_matrix(labels, predicted, 5)
    assert matrix.dtype == torch.int64
    counted = Counter(pairs)
    assert all(matrix[i, j] == counted[i, j] for i in range(5) for j in range(5))
    assert matrix.sum(dim=1).tolist() == [sum(label == i for label, _ in pairs) for i in range(5)]
    assert matrix.trace() == sum(label == guess for label, guess in pairs)

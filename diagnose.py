"""What a trained network gets wrong, counted by hand (exercise sheet 1.4)."""

import torch


def confusion_matrix(labels, predicted, n_classes):
    """Count the (true, predicted) pairs: int64 (n_classes, n_classes), rows true, columns predicted classes.

    `labels` and `predicted` are int64 (N,) class indices. A row's sum is how many samples its class has; the
    diagonal holds the right answers.
    """
    matrix = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    pairs, counts = torch.stack([labels.cpu(), predicted.cpu()]).unique(dim=1, return_counts=True)
    matrix[pairs[0], pairs[1]] = counts
    return matrix

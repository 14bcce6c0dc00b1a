"""What a trained network gets wrong, counted by hand (exercise sheet 1.4)."""

import torch


def confusion_matrix(labels, predicted, n_classes):
    """Count the (true, predicted) pairs: int64 (n_classes, n_classes), rows true, columns predicted classes.

    `labels` and `predicted` are int64 (N,) class indices. A row's sum is how many samples its class has; the
    diagonal holds the right answers.
    """
    pairs = labels * n_classes + predicted  # the cells' numbers, row by row
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)

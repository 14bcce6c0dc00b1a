"""Which labels are likely to be wrong, and how many, given the probabilities of networks trained on them.

Everywhere `labels` is int64 (N,), class indices, and `log_probabilities` is float (N, classes).
"""

import math

import numpy as np
import torch

N_STEPS = 20  # of expectation maximisation
UNSEEN = 0.5  # added to each label's counts, so that a mistake that was never seen is not impossible


def ensemble(log_probabilities):
    """Return the log-probabilities of several networks as one: (networks, N, classes) → (N, classes).

    The ensemble's probabilities are the geometric means of the networks', divided by their sum.
    """
    return log_probabilities.mean(dim=0).log_softmax(dim=1)


def log_ratios(log_probabilities):
    """Return log p_k / π_k, float (N, classes), for the mean probability π_k of class k over all samples."""
    return log_probabilities - (log_probabilities.logsumexp(dim=0) - math.log(len(log_probabilities)))


def label_counts(labels, log_probabilities):
    """Estimate how many samples with label i are of class k: float (classes, classes), i the row.

    By expectation maximisation, as Saerens et al. (2002) estimate the shares of classes, here among samples
    of one label: a sample is of class k with a probability proportional to counts[i, k] p_k / π_k, see
    `log_ratios`; the sums of these probabilities are the next counts.
    """
    ratios, n_classes = log_ratios(log_probabilities), log_probabilities.shape[1]
    counts = torch.bincount(labels, minlength=n_classes).diag().float()
    for _ in range(N_STEPS):
        probabilities = (ratios + (counts + UNSEEN / n_classes).log()[labels]).softmax(dim=1)
        counts = torch.zeros(n_classes, n_classes).index_add_(0, labels, probabilities)
    return counts


def error_scores(labels, log_probabilities):
    """Return how likely each label is to be wrong, float (N,), as the logarithm of odds:

        log Σ_{k ≠ i} w_ik q_k  -  log q_i      for the label i, with q_k = p_k f_k / π_k

    q corrects what a network predicts too often: π_k is the mean of p_k, f_k the share of the label k. w_ik
    weighs the mistake of calling a k an i: if 4s and 9s are mixed up, a doubtful 4 comes before an equally
    doubtful 7. Networks confuse similar classes too, so the counts n_ik of these mistakes matter more if they
    are concentrated on few kinds: w_ik is n_ik to the power of (R - 1) / 15, at most 2, for the
    `concentration` R of the n_ik, k ≠ i. The n_ik are the `label_counts` of the probabilities
    `without_expected`. If all w_ik are equal, the order is that of the losses -log q_i.
    results/choosing_the_score.csv has what else was tried; 10 or 20 in place of 15 are about as good.
    """
    n_classes = log_probabilities.shape[1]
    counts = label_counts(labels, without_expected(log_probabilities)) + UNSEEN / n_classes
    power = min((concentration(counts[~torch.eye(n_classes, dtype=torch.bool)]) - 1) / 15, 2)
    shares = (torch.bincount(labels, minlength=n_classes) + UNSEEN / n_classes) / len(labels)
    log_q = log_ratios(log_probabilities) + shares.log()
    of_label = log_q.gather(1, labels[:, None])
    weighted = (log_q + power * counts.log()[labels]).scatter(1, labels[:, None], -torch.inf)
    return weighted.logsumexp(dim=1) - of_label.squeeze(1)


def concentration(counts):
    """Return how many times more often two mistakes are of one kind than if all kinds were equally likely.

    `counts`, float (M,), has the mistakes of each kind. The result is from 1, if all are equal, to M, if only
    one kind occurs: the Herfindahl index Σ s² of the shares s, divided by that of equal shares, 1 / M.
    """
    return len(counts) * (counts / counts.sum()).square().sum().item()


def count_errors(labels, log_probabilities):
    """Estimate how many labels are wrong: two ints, (low, high), or None if they cannot be estimated.

    One is the sum of the `label_counts` off the diagonal. From many wrong labels networks learn to expect
    them (Patrini et al. 2017): they give every class some probability in every image, and the sum is too low.
    The other is the sum without these probabilities. Networks that contradict a fifth of the labels cannot
    tell if they fit badly or if many labels are wrong: on CIFAR-10N, 23 %, both sums are far too low.
    """
    if (log_probabilities.argmax(dim=1) != labels).sum() >= len(labels) / 5:
        return None
    both = [label_counts(labels, each) for each in (log_probabilities, without_expected(log_probabilities))]
    return tuple(sorted(round((each.sum() - each.trace()).item()) for each in both))


def without_expected(log_probabilities):
    """Return the log-probabilities without what networks give a class in every image, float (N, classes).

    Among the samples with one prediction, that part of another class's probability is its 0.3-quantile:
    samples that really look like the class have more. At most nine tenths of a probability are taken off.
    """
    probabilities = log_probabilities.exp()
    predicted = probabilities.argmax(dim=1)
    expected = torch.zeros(probabilities.shape[1], probabilities.shape[1])
    for k in predicted.unique():
        expected[k] = torch.from_numpy(np.quantile(probabilities[predicted == k].numpy(), 0.3, axis=0))
    expected.fill_diagonal_(0)
    share = (expected[predicted].log() - log_probabilities).exp()  # of a probability, that is expected
    return log_probabilities + (1 - share).clamp(min=0.1).log()


def contradicted_copies(digests, labels, losses):
    """Return which samples have a copy with another label that has a smaller loss, bool (N,).

    `digests` are hashes of the images, equal for copies; `losses` is float (N,). Of the different labels of
    copies at most one is right, most likely the one with the smallest loss.
    """
    best = {}
    for index in losses.argsort(descending=True).tolist():
        best[digests[index]] = labels[index]  # the last one stays: it has the smallest loss
    return torch.tensor([label != best[digest] for digest, label in zip(digests, labels, strict=True)])


def most_likely_errors(labels, predicted, order, n):
    """Return the `n` first indices in `order` whose label is not `predicted`, or fewer: int64 (M,).

    `predicted` is int64 (N,), `order` int64, indices. A label -1 stands for a sample that does not count. No
    class loses all its samples: if all are among them, the last one is left out.
    """
    suspects = order[(predicted != labels)[order]][:n]
    for label in labels.unique():
        of_label = suspects[labels[suspects] == label]
        if len(of_label) == (labels == label).sum():
            suspects = suspects[suspects != of_label[-1]]
    return suspects


def true_labels(digests, labels, true_digests, known_labels):
    """Return the label of each image in the true data, int64 (N,), or -1 if the image is not there.

    `digests` are hashes of the images, `true_digests` and `known_labels`, ints, belong to the true data. If
    an image has several labels there, its label in `labels` is true if it is one of them, else the first.
    """
    pairs = set(zip(true_digests, known_labels, strict=True))
    first = dict(zip(true_digests[::-1], known_labels[::-1], strict=True))
    known = zip(digests, labels.tolist(), strict=True)
    true = [label if (digest, label) in pairs else first.get(digest, -1) for digest, label in known]
    return torch.tensor(true)


def even_spread(predicted, n, n_classes):
    """Return ((labels, variance), (predictions, variance)) of `n` suspects that are spread evenly.

    The first of each pair are expected counts, float (classes,): n n_k / N for the prediction k, if n_k of N
    samples are `predicted`, int64 (N,), to be of the class k, and n (N - n_k) / (N (classes - 1)) for the
    label k. `variance` is relative to independent counts: the suspects are drawn without replacement.
    """
    shares = torch.bincount(predicted, minlength=n_classes).double() / len(predicted)
    drawn, n_others = (n - 1) / (len(predicted) - 1), n_classes - 1
    return (n * (1 - shares) / n_others, 1 - drawn / n_others**2), (n * shares, 1 - drawn)

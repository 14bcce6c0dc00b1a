"""Find labels that are likely to be wrong, and estimate their number, from networks trained on them.

In this file `labels` is int64 (N,), class indices, and `log_probabilities` is float (N, classes).
"""

import math

import numpy as np
import torch

N_STEPS = 20  # of expectation maximisation
UNSEEN = 0.5  # added to the counts of each label, so no mistake has the probability 0


def ensemble(log_probabilities):
    """Combine the log-probabilities of several networks: (networks, N, classes) → (N, classes).

    The result is the geometric mean over the networks, divided by its sum over the classes; as a logarithm.
    """
    return log_probabilities.mean(dim=0).log_softmax(dim=1)


def log_ratios(log_probabilities):
    """Return log(p_k / π_k), float (N, classes); π_k is the mean of p_k over all samples."""
    return log_probabilities - (log_probabilities.logsumexp(dim=0) - math.log(len(log_probabilities)))


def label_counts(labels, log_probabilities):
    """Estimate how many samples with label i belong to class k: float (classes, classes), a row for each i.

    Saerens et al. (2002) estimate the frequencies of classes by expectation maximisation; this is done here
    for the samples of each label. A sample belongs to class k with a probability proportional to
    counts[i, k] p_k / π_k (see `log_ratios`). The sums of these probabilities are the next counts.
    """
    ratios, n_classes = log_ratios(log_probabilities), log_probabilities.shape[1]
    counts = torch.bincount(labels, minlength=n_classes).diag().float()
    for _ in range(N_STEPS):
        probabilities = (ratios + (counts + UNSEEN / n_classes).log()[labels]).softmax(dim=1)
        counts = torch.zeros(n_classes, n_classes).index_add_(0, labels, probabilities)
    return counts


def error_scores(labels, log_probabilities):
    """Return a score of each label, float (N,), which is higher if the label is more likely to be wrong:

        log Σ_{k ≠ i} w_ik q_k  -  log q_i      for the label i, with q_k = p_k f_k / π_k

    π_k is the mean of p_k and f_k the share of label k, so q_k is smaller if networks predict k too often.
    w_ik is the weight of the mistake "class k has label i": if 4 and 9 are often confused, a doubtful 4 comes
    before an equally doubtful 7. It is n_ik to the power of (R - 1) / 15, at most 2. n_ik counts the mistakes
    (`label_counts` of the probabilities `without_expected`), and R is the `concentration` of all n_ik, k ≠ i:
    networks confuse similar classes too, so the counts matter more if few kinds of mistakes are frequent.
    If all w_ik are equal, the labels are in the order of the losses -log(q_i / Σ_k q_k). Other scores are in
    results/choosing_the_score.csv; 10 or 20 instead of 15 are about as good.
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
    """Return how concentrated mistakes are: 1 if all kinds are equally frequent, M if only one kind occurs.

    `counts`, float (M,), has the number of mistakes of each kind. The result is M Σ s² for their shares s:
    the Herfindahl index Σ s² is the probability that two random mistakes are of the same kind.
    """
    return len(counts) * (counts / counts.sum()).square().sum().item()


def count_errors(labels, log_probabilities):
    """Estimate how many labels are wrong: two ints, (low, high), or None if they cannot be estimated.

    One is the sum of the `label_counts` off the diagonal. It is too low if many labels are wrong: networks
    learn to expect them (Patrini et al. 2017) and give every class some probability in every image. The
    other is the sum without these probabilities. The result is None if networks contradict a fifth of the
    labels or more: they fit badly, or many labels are wrong. On CIFAR-10N (23 %) both sums are far too low.
    """
    if (log_probabilities.argmax(dim=1) != labels).sum() >= len(labels) / 5:
        return None
    both = [label_counts(labels, each) for each in (log_probabilities, without_expected(log_probabilities))]
    return tuple(sorted(round((each.sum() - each.trace()).item()) for each in both))


def without_expected(log_probabilities):
    """Subtract from probabilities the part that a class gets in every image; return logs, float (N, classes).

    This part is the 0.3-quantile of the class's probability among the samples with the same prediction:
    samples that really look like the class have more. At most 90 % of a probability is subtracted.
    """
    probabilities = log_probabilities.exp()
    predicted = probabilities.argmax(dim=1)
    expected = torch.zeros(probabilities.shape[1], probabilities.shape[1])
    for k in predicted.unique():
        expected[k] = torch.from_numpy(np.quantile(probabilities[predicted == k].numpy(), 0.3, axis=0))
    expected.fill_diagonal_(0)
    share = (expected[predicted].log() - log_probabilities).exp()  # the expected part of each probability
    return log_probabilities + (1 - share).clamp(min=0.1).log()


def contradicted_copies(digests, labels, losses):
    """Return which samples have a copy with another label and a smaller loss, bool (N,).

    `digests` are hashes of the images, equal for copies; `losses` is float (N,). If copies have
    different labels, at most one is right, most likely the label with the smallest loss.
    """
    best = {}
    for index in losses.argsort(descending=True).tolist():
        best[digests[index]] = labels[index]  # the last one stays: it has the smallest loss
    return torch.tensor([label != best[digest] for digest, label in zip(digests, labels, strict=True)])


def most_likely_errors(labels, predicted, order, n):
    """Return the first indices in `order` whose label is not `predicted`, at most `n`: int64 (M,).

    `predicted` is int64 (N,); `order` has indices, int64. A sample with label -1 belongs to no class. Each
    class keeps a sample: if all its samples are among the indices, the last one is left out.
    """
    suspects = order[(predicted != labels)[order]][:n]
    for label in labels.unique():
        of_label = suspects[labels[suspects] == label]
        if len(of_label) == (labels == label).sum():
            suspects = suspects[suspects != of_label[-1]]
    return suspects


def true_labels(digests, labels, true_digests, known_labels):
    """Return the label that each image has in the true data, int64 (N,), or -1 if the image is not there.

    `digests` are hashes of the images; `true_digests` and `known_labels`, ints, belong to the true data. If
    an image has several labels there, its label in `labels` is true if it is among these, else the first.
    """
    pairs = set(zip(true_digests, known_labels, strict=True))
    first = dict(zip(true_digests[::-1], known_labels[::-1], strict=True))
    known = zip(digests, labels.tolist(), strict=True)
    true = [label if (digest, label) in pairs else first.get(digest, -1) for digest, label in known]
    return torch.tensor(true)


def even_spread(predicted, n, n_classes):
    """Return ((labels, variance), (predictions, variance)): counts expected of `n` evenly spread suspects.

    `labels` and `predictions` are float (classes,). If `predicted`, int64 (N,), is k for n_k of N samples,
    n n_k / N predictions and n (N - n_k) / (N (classes - 1)) labels k are expected. `variance` is relative to
    independent counts; it is at most 1, because suspects are drawn without replacement.
    """
    shares = torch.bincount(predicted, minlength=n_classes).double() / len(predicted)
    drawn, n_others = (n - 1) / (len(predicted) - 1), n_classes - 1
    return (n * (1 - shares) / n_others, 1 - drawn / n_others**2), (n * shares, 1 - drawn)

"""Makes labels wrong, and tells what pixels alone say of labels: the true ones, copies, uneven classes."""

from hashlib import sha256
from pathlib import Path

from support.console import UserError, printable
from support.image_folders import copy_images, list_folder, note_listings
from support.randomness import WRONG_LABELS, mix

import torch


def make_wrong(labels, n_classes, count, seed, classes=None):
    """Return a copy of `labels`, int64 (N,), in which `count` are wrong, and the indices of those, int64.

    Each gets another class at random; with `classes`, class indices, only labels among these are changed, and
    only into one another. Raises UserError where there are fewer than `count` such labels.
    """
    classes = torch.tensor(sorted(set(classes or range(n_classes))))
    candidates = torch.isin(labels, classes).nonzero().flatten()
    if len(classes) < 2 or len(candidates) < count:
        raise UserError(
            f"{count:,} labels cannot be made wrong: {len(candidates):,} images are in {len(classes)} classes"
        )
    generator = torch.Generator().manual_seed(mix(seed, WRONG_LABELS))
    changed = candidates[torch.randperm(len(candidates), generator=generator)[:count]].sort().values
    steps = torch.randint(1, len(classes), (count,), generator=generator)  # never 0: never the same class
    wrong = labels.clone()
    wrong[changed] = classes[(torch.searchsorted(classes, labels[changed]) + steps) % len(classes)]
    return wrong, changed


def mislabel(source, out, count=100, seed=0, classes=None):
    """Copy the image folder `source` to the new folder `out`, `count` training images under a wrong class.

    `classes` are names; with them, only their images are changed, into one another.
    """
    root = Path(source)
    listings = list_folder(root)
    note_listings(root, *listings)
    files, labels, names, _ = listings[0]
    for name in classes or []:
        if name not in names:
            raise UserError(f"{source} has no class {name}; it has {', '.join(names)}")
    numbers = [names.index(name) for name in classes] if classes else None
    wrong, changed = make_wrong(torch.tensor(labels), len(names), count, seed, numbers)
    emptied = set(labels) - set(wrong.tolist())
    if emptied:
        raise UserError(f"no image of the class {names[min(emptied)]} would be left; try a smaller --count")
    ids = [Path(files[index]).relative_to(root).as_posix() for index in changed]
    copy_images(root, out, dict(zip(ids, (names[label] for label in wrong[changed]), strict=True)))
    print(f"{out}: a copy of {source} in which {count:,} of {len(files):,} training labels are wrong")


# ---------------------------------------------------------------- what pixels alone tell


def digests(images):
    """Return for each of `images`, uint8 (N, …), bytes that are the same where all its pixels are."""
    return [sha256(image).digest() for image in images.contiguous().numpy()]


def true_labels(data, clean):
    """Return the labels, int64 (N,), that `data`'s images have in `clean`, -1 where it has no such image.

    Both are ImageData; images are the same where all their pixels are, whatever their files' names. Of a
    picture that `clean` has in several classes, the label in `data` counts if it is one of them.
    """
    channels = max(data.images.shape[1], clean.images.shape[1])  # grey may stand beside colour there
    ours, theirs = (digests(part.images.expand(-1, channels, -1, -1)) for part in (data, clean))
    number = {name: index for index, name in enumerate(data.classes)}
    known = {}
    for digest, label in zip(theirs, clean.labels.tolist(), strict=True):
        known.setdefault(digest, []).append(number.get(clean.classes[label], -1))
    truth = []
    for digest, label in zip(ours, data.labels.tolist(), strict=True):
        labels = known.get(digest, [-1])
        truth.append(label if label in labels else labels[0])
    return torch.tensor(truth)


def contradicted_copies(images, labels, losses):
    """Return which samples have copies with another label that the networks find better, bool (N,).

    `images` are uint8 (N, …), `labels` int64 (N,), `losses` float (N,). Of copies with different labels only
    one label can be right: here that of the least loss.
    """
    names = digests(images)
    best = {}
    for index in losses.argsort(descending=True).tolist():
        best[names[index]] = labels[index]  # the last one stays: that of the least loss
    return torch.tensor([label != best[name] for name, label in zip(names, labels, strict=True)])


def are_uneven(counts):
    """Return whether classes of so many images, `counts`, are too different to tell by one accuracy."""
    return max(counts) > 3 * min(counts)


def note_contents(train, test):
    """Say what a person should know of two ImageData before they are used: uneven classes, and copies."""
    counts = torch.bincount(train.labels, minlength=len(train.classes)).tolist()
    if are_uneven(counts):
        texts = [f"{n:,} of {train.classes[counts.index(n)]}" for n in (max(counts), min(counts))]
        print(printable(f"Note: the classes differ in size: {' and '.join(texts)} among the training images"))
    places = {}
    for index, digest in enumerate(digests(train.images)):
        places.setdefault(digest, []).append(index)
    copies = enumerate(digests(test.images))
    leaked = [(index, places[digest][0]) for index, digest in copies if digest in places]
    if leaked:
        (index, place), n = leaked[0], len(leaked)
        note = f"which flatters the accuracy: {n:,}, such as {test.ids[index]} = {train.ids[place]}"
        print(printable(f"Note: copies of training images are among the test images, {note}"))
    doubtful = [copies for copies in places.values() if len(set(train.labels[copies].tolist())) > 1]
    if doubtful:
        first, *others = doubtful[0]
        other = next(index for index in others if train.labels[index] != train.labels[first])
        note = f"at most one is right: {len(doubtful):,}, such as {train.ids[first]} = {train.ids[other]}"
        print(printable(f"Note: copies of an image are in several classes, of which {note}"))

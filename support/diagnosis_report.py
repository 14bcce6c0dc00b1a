"""What a diagnosis tells: how labels and predictions agree, and which labels look wrong.

`data` and `test` are ImageData, a `ranking` is a diagnose.Ranking of one of them.
"""

from support import pictures
from support.chance import spread_over_classes
from support.console import printable


def show_confusion(title, data, matrix, path):
    """Print and draw the confusion matrix of the labels of `data` and the predictions."""
    n_wrong = (matrix.sum() - matrix.trace()).item()
    wrong = f"{n_wrong:,} of {len(data):,} labels differ from the prediction"
    legend = "rows: label, columns: prediction"
    pictures.draw_confusion(path, matrix, data.classes, f"{data.source}, {title}", f"{wrong}; {legend}")
    print(f"\n{title}: {wrong}")
    if len(data.classes) <= 20:
        names = [printable(name) for name in data.classes]  # one line each
        width = max(map(len, [*names, str(matrix.max().item())])) + 1
        print("".join(f"{name:>{width}}" for name in ("", *names)), " ← predicted")
        for name, row in zip(names, matrix.tolist(), strict=True):
            print("".join(f"{cell:>{width}}" for cell in (name, *row)))


def show_estimates(halves, rankings):
    """Say how many labels of the training and of the test images look wrong."""
    print()
    for name, half, ranking in zip(("training", "test"), halves, rankings, strict=True):
        n_contradicted = (ranking.predicted != half.labels).sum().item()
        if ranking.n_wrong:
            numbers = " to ".join(f"{n:,}" for n in sorted(set(ranking.n_wrong)))
            print(f"about {numbers} of the {len(half):,} {name} labels look wrong", end="; ")
            print(f"the networks predict another class for {n_contradicted:,}")
        else:
            print(f"how many {name} labels are wrong cannot be said: the networks contradict half or more")
    share = n_contradicted / len(half)  # of the test labels
    if share > 1 / 4 and any(ranking.n_wrong for ranking in rankings):
        print(f"(do not rely on that: the networks contradict {share:.0%} of the test labels)")
    elif ranking.n_wrong:  # of the test labels
        print("(networks come to believe what they learn: with few images more may be wrong, rather the")
        print(f"test labels' share, {ranking.n_wrong[1] / len(half):.1%}; --remove N takes N suspects)")


def draw_suspects(path, data, indices, ranking, title):
    """Draw the images at `indices` with their label, their prediction and their loss."""
    predicted = ranking.predicted
    captions = [
        (
            data.classes[data.labels[index]],
            data.classes[predicted[index]],
            f"loss {ranking.losses[index]:.2f}",
        )
        for index in indices
    ]
    pictures.draw_sheet(path, data.images[indices], captions, f"{title}, from label to prediction")


def show_suspects(data, changed, ranking, folder):
    """Print and draw the training images that are to be `changed`, bool (N,), the highest scores first."""
    places = changed[ranking.order].nonzero().flatten()  # in the ranking
    suspects = ranking.order[places]
    if len(suspects) == 0:
        print("\nno image is to be removed or relabelled")
        return
    predicted = ranking.predicted
    shown = suspects[:100]
    title = f"{data.source}: {len(shown)} suspects by score"
    draw_suspects(folder / "top_losses.png", data, shown, ranking, title)
    print(
        f"\n{len(suspects):,} suspects; {folder}/top_losses.png has the first {len(shown)}, "
        "top_losses.csv all images"
    )
    print("the score: the log of the odds that the label is wrong, by the networks and by how often such a")
    print("mistake is made (of copies in several classes the contradicted ones come first):")
    print("rank  score   loss  label → prediction  image")
    for place, index in zip(places[:10].tolist(), shown.tolist(), strict=False):
        numbers = f"{place + 1:4}  {ranking.scores[index]:5.2f}  {ranking.losses[index]:5.2f}"
        pair = f"{data.classes[data.labels[index]]} → {data.classes[predicted[index]]}"
        print(printable(f"{numbers}  {pair:18}  {data.ids[index]}"))
    n_agreed = (predicted == data.labels)[suspects].sum().item()
    if n_agreed:
        print(f"{n_agreed:,} of the suspects have the label that is predicted: fewer are likely to be wrong")
    disagreeing = suspects[predicted[suspects] != data.labels[suspects]]
    if len(disagreeing):
        print("\n" + spread_over_classes(data.labels, predicted, disagreeing, data.classes))


def show_test(test, n_changed, ranking, folder):
    """Draw the test images whose labels look most wrong; say how many of all `n_changed` decisions change."""
    shown = ranking.order[:100]
    title = f"{test.source}: {len(shown)} test images by score"
    draw_suspects(folder / "top_losses_test.png", test, shown, ranking, title)
    print(f"\n{folder}/top_losses_test.csv ranks the test images, top_losses_test.png has the first;")
    print(f"decisions change {n_changed or 'none'} of them, and the effect is measured on all, as they are")


def show_found(data, truth, order, changed, folder):
    """Print how many wrong labels the `changed` samples, bool (N,), hold, and draw those that they miss."""
    wrong = truth != data.labels
    n_found, n_changed, n_wrong = (wrong & changed).sum().item(), changed.sum().item(), wrong.sum().item()
    precision, recall = n_found / max(n_changed, 1), n_found / max(n_wrong, 1)
    print(
        f"\nof the {n_changed:,} suspects {n_found:,} labels are wrong (precision {precision:.1%}), "
        f"of {n_wrong:,} wrong labels in all" + (f" (recall {recall:.1%})" if n_wrong else "")
    )
    missed = (wrong & ~changed)[order].nonzero().flatten()  # as places in the order
    if len(missed) > 0:
        indices = order[missed[:100]]
        captions = [
            (data.classes[data.labels[index]], data.classes[truth[index]], f"rank {rank + 1:,}")
            for rank, index in zip(missed.tolist(), indices, strict=False)
        ]
        title = f"{data.source}: {len(captions)} of {len(missed):,} missed wrong labels, from label to truth"
        pictures.draw_sheet(folder / "missed.png", data.images[indices], captions, title)
        print(f"the first wrong label that is missed has rank {missed[0] + 1:,}; see {folder}/missed.png")

"""Which score finds wrong labels best? Several, compared over data sets, kinds of noise and sets of labels.

    python -m studies.suspect_rankings fashion-random-600 fashion-Pullover_Coat-600 --sets 5 6 7 8 9

A kind of noise is DATA-KIND-COUNT: so many labels are wrong, at random, among classes that are mixed up (A_B)
or in one direction (A_to_B). Each set is another choice of labels, with networks of other seeds. What these
say is kept in runs/suspect_rankings, so an interrupted study goes on, and another score costs seconds. To
train anew, as after a change of the training, move that folder away. --cleanlab compares with that package
(pip install cleanlab), for the same number of images seen in training, and has our score rank from the same
predictions.
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from support import pictures
from support.chance import difference, mean_sd
from support.console import Parser, UserError, run_command, seed_number
from support.decisions import DiagnosisOptions
from support.files import check_replaceable, read_tensors, replace_rows, write_tensors
from support.mislabelled import make_wrong
from support.randomness import HALVES, WRONG_LABELS, random_order
from support.settings import Settings, complete, with_epochs

import torch

import diagnose
import models
import train
from data import load

KEPT = Path("runs", "suspect_rankings")
TABLE = "results/suspect_rankings.csv"
SEEDS = 1000  # the first of the networks' seeds: not those of the wrong labels

# ---------------------------------------------------------------- wrong labels, and what networks say of them


def parts_of(noise):
    """Return (name of the data set, kind, how many labels are wrong) of the text `noise`."""
    data, _, rest = noise.partition("-")
    kind, _, count = rest.rpartition("-")  # a class may have a hyphen in its name
    return data, kind, int(count)


def with_noise(data, noise, seed):
    """Return the labels of the ImageData `data`, int64 (N,), some of them wrong as the text `noise` says."""
    _, kind, n_wrong = parts_of(noise)
    names = kind.replace("_to_", "_").split("_")
    if kind != "random" and not (len(set(names)) == len(names) == 2 and set(names) <= set(data.classes)):
        raise UserError(f"{noise}: no classes {kind} in {data.source}: {', '.join(data.classes)}")
    if n_wrong == 0:
        return data.labels
    if kind == "random":
        return make_wrong(data.labels, len(data.classes), n_wrong, seed)[0]
    first, second = map(data.classes.index, names)
    if "_to_" not in kind:
        return make_wrong(data.labels, len(data.classes), n_wrong, seed, [first, second])[0]
    labels = data.labels.clone()
    candidates = (labels == first).nonzero().flatten()
    if n_wrong >= len(candidates):
        raise UserError(f"{noise}: there are only {len(candidates):,} images of the class {names[0]}")
    labels[candidates[random_order(len(candidates), seed, WRONG_LABELS)[:n_wrong]]] = second
    return labels


def fitted(data, settings, task):
    """Return a network that was trained on the ImageData `data`."""
    model = models.build(settings, len(data.classes), data.images.shape[1:])
    train.fit(model, data, data.subset(torch.arange(1)), settings, task=task)
    return model


def fitted_by_default(data, settings, number, task):
    """Return (networks, settings of the first): those that diagnose.py would train on `data`."""
    n = DiagnosisOptions.seeds
    settings = with_epochs(settings, len(data), *diagnose.N_EPOCHS)
    runs = [replace(settings, seed=SEEDS + n * number + run) for run in range(n)]
    return [fitted(data, run, f"{task}, seed {run.seed}") for run in runs], runs[0]


def by_default(data, settings, number, task):
    """Return what the networks of diagnose.py give to the images that they learn: (networks, N, classes)."""
    networks, run = fitted_by_default(data, settings, number, task)
    return diagnose.predict_all(networks, data, run)


def cross_validated(data, settings, number, task, n_folds=3):
    """Return what networks that learn two thirds give to the other third: (1, N, classes)."""
    epochs = with_epochs(settings, len(data), *diagnose.N_EPOCHS).epochs
    epochs = epochs * DiagnosisOptions.seeds // (n_folds - 1)  # so as many images are seen
    outputs = torch.empty(1, len(data), len(data.classes))
    folds = random_order(len(data), SEEDS + number, HALVES).chunk(n_folds)  # not the wrong labels' order
    for index, fold in enumerate(folds):
        run = replace(settings, epochs=epochs, seed=SEEDS + n_folds * number + index)
        others = torch.cat([other for other in folds if other is not fold])
        model = fitted(data.subset(others), run, f"{task}, fold {index + 1} of {n_folds}")
        outputs[:, fold] = diagnose.predict_all([model], data.subset(fold), run)
    return outputs


def kept(noise, number, way, data, settings):
    """Return what `way`, by_default or cross_validated, returns for this set; it is computed once."""
    path = KEPT / f"{noise}-{number}-{way.__name__}-{data.fingerprint()}.pt"
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        write_tensors(path, way(data, settings, number, f"{noise}, set {number}, {way.__name__}"))
    return read_tensors(path)


# ---------------------------------------------------------------- scores


def former_score(labels, log_probabilities):
    """Return diagnose.py's score until November 2026: the loss, plus the log of the mistake's share.

    That is its share of the labels which the networks find e⁴ times less likely than another class.
    """
    n_classes = log_probabilities.shape[1]
    losses = diagnose.losses_of(labels, log_probabilities)
    other_log_p, other = log_probabilities.scatter(1, labels[:, None], -torch.inf).max(dim=1)
    pair = labels * n_classes + other
    counts = torch.bincount(pair[other_log_p + losses > 4], minlength=n_classes**2) + 1
    return losses + (counts / counts.sum()).log()[pair]


def our_orders(data, ranking, outputs):
    """Return {name: (order, int64 (N,), the most suspicious label first; how many look wrong, or None)}."""
    former = former_score(data.labels, outputs.mean(dim=0))
    return {
        "diagnose.py": (ranking.order, ranking.n_wrong and ranking.n_wrong[1]),
        "loss alone": (diagnose.greatest_first(ranking.losses), None),
        "former score": (diagnose.greatest_first(former), None),
    }


def held_out_orders(data, outputs):
    """Return such a dict from held-out predictions: of cleanlab's scores, its filter, and our score."""
    from cleanlab.count import num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    given = {"labels": data.labels.numpy(), "pred_probs": outputs[0].double().softmax(dim=1).numpy()}
    n_issues = int(num_label_issues(**given))
    orders = {}
    for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy"):
        quality = torch.from_numpy(get_label_quality_scores(**given, method=method))
        orders[f"cleanlab, {method.replace('_', ' ')}"] = (diagnose.greatest_first(-quality), n_issues)
    # Its filter flags for each pair of classes as many as it counts there; these come first.
    flagged = torch.from_numpy(find_label_issues(**given, n_jobs=1))
    order = orders["cleanlab, self confidence"][0]
    order = order[diagnose.greatest_first(flagged[order].double())]
    orders["cleanlab, its filter"] = (order, int(flagged.sum()))
    ranking = diagnose.top_losses(data, outputs)
    orders["diagnose.py's score, held out"] = (ranking.order, ranking.n_wrong and ranking.n_wrong[1])
    return orders


def precisions_of(hits):
    """Return the share of wrong labels among the first 1, 2, … N, float64 (N,); `hits` says which are."""
    return hits.cumsum(0) / torch.arange(1, len(hits) + 1)


def judge(hits):
    """Return (how many wrong labels the first so many hold, the average precision)."""
    n_wrong = int(hits.sum())
    return int(hits[:n_wrong].sum()), (hits * precisions_of(hits)).sum().item() / max(n_wrong, 1)


# ---------------------------------------------------------------- the study


def measure(clean, noise, numbers, with_cleanlab):
    """Return ({method: [(found, average precision, estimate, hits) of each set]}, not_changed).

    `clean` is the ImageData that gets the `noise`. `not_changed` counts how often a label that was not
    changed is a suspect of diagnose.py: a Counter of (index, predicted class).
    """
    settings = complete(Settings(**diagnose.RECIPE))
    torch.set_num_threads(settings.threads)
    measured, not_changed = {}, Counter()
    for number in numbers:
        data = replace(clean, labels=with_noise(clean, noise, number))
        wrong = data.labels != clean.labels
        outputs = kept(noise, number, by_default, data, settings)
        ranking = diagnose.top_losses(data, outputs)
        orders = our_orders(data, ranking, outputs)
        if with_cleanlab:
            orders |= held_out_orders(data, kept(noise, number, cross_validated, data, settings))
        for method, (order, estimate) in orders.items():
            hits = wrong[order].double()
            measured.setdefault(method, []).append((*judge(hits), estimate, hits))
        suspects, predicted = ranking.order[: wrong.sum()], ranking.predicted
        suspects = suspects[~wrong[suspects] & (predicted != data.labels)[suspects]]
        not_changed.update((index, predicted[index].item()) for index in suspects.tolist())
    return measured, not_changed


COLUMNS = ("noise", "method", "sets", "found of each set")
COLUMNS += ("found", "found sd", "ours finds more", "ours finds more sd", "found verdict")
COLUMNS += ("precision", "precision sd", "ours more", "ours more sd", "precision verdict")
COLUMNS += ("look wrong", "look wrong sd")


def summary(noise, numbers, measured):
    """Return a row of the table for each method: what it found, and how it compares with ours."""
    ours = list(zip(*measured["diagnose.py"], strict=True))
    rows = []
    for method, results in measured.items():
        values = list(zip(*results, strict=True))
        found, _, estimates, _ = values
        cells = [noise, method, " ".join(map(str, numbers)), " ".join(map(str, found))]
        for mine, theirs, digits in zip(ours[:2], values[:2], (1, 4), strict=True):
            *change, verdict = difference(theirs, mine)
            cells += [round(number, digits) or 0 for number in (*mean_sd(theirs), *change)]  # never -0.0
            cells.append("" if method == "diagnose.py" else verdict)
        cells += ["", ""] if None in estimates else map(round, mean_sd(estimates))
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def curve(results, n_points=40):
    """Return the precision at each recall, for `draw_lines`: mean over the sets, the least, the most."""
    points = []
    for n in range(1, n_points + 1):
        values = []
        for *_, hits in results:
            places = hits.nonzero().flatten()
            place = places[-(-n * len(places) // n_points) - 1]  # of the first hit with that recall
            values.append(100 * precisions_of(hits)[place].item())
        points.append((100 * n / n_points, mean_sd(values)[0], min(values), max(values)))
    return points


def show_not_changed(picture, not_changed, clean, n_sets):
    """Draw and name labels that were not changed, but are suspects: the nine most often so."""
    captions = []
    for (index, predicted), n in not_changed.most_common(9):
        names = clean.classes[clean.labels[index]], clean.classes[predicted]
        captions.append((*names, f"{n} of {n_sets} sets"))
        print(f"not changed, but a suspect in {n} of {n_sets} sets: {' → '.join(names)}  {clean.ids[index]}")
    images = clean.images[[index for (index, _), _ in not_changed.most_common(9)]]
    title = f"{clean.source}'s own labels among the first suspects, and the predictions"
    pictures.draw_sheet(picture, images, captions, title)


def noise_name(text):
    """Parse DATA-KIND-COUNT, where DATA is no path: the name is part of a file's."""
    data, kind, count = parts_of(text)
    if not data.isidentifier() or kind[-1:] in ("", "-") or "/" in kind or text != f"{data}-{kind}-{count}":
        raise ValueError
    return text


noise_name.__name__ = "DATA-KIND-COUNT"

PICTURES = ("own_labels", "precision")  # of each noise


def picture_of(kind, noise, table):
    """Return the Path of one of PICTURES of `noise`, beside the file `table`."""
    return Path(table).with_name(f"{kind}_{noise}.png")


def main(arguments=None):
    """Measure each score on each kind of noise."""
    parser = Parser(description=__doc__)
    text = "such as mnist-random-100, mnist-4_9-100, mnist-3_to_8-100"
    parser.add_argument("noises", nargs="+", type=noise_name, metavar="DATA-KIND-COUNT", help=text)
    text = "which sets of wrong labels (default: 5 to 9)"
    parser.add_argument("--sets", nargs="+", type=seed_number, default=[5, 6, 7, 8, 9], help=text)
    parser.add_argument("--cleanlab", action="store_true", help="compare with cleanlab too")
    text = f"where lines are kept, and pictures beside it (default: {TABLE})"
    parser.add_argument("--table", type=partial(pictures.output_file, ".csv"), default=TABLE, help=text)
    given = parser.parse_args(arguments)
    noises, numbers = dict.fromkeys(given.noises), sorted(set(given.sets))
    check_replaceable(given.table, COLUMNS)  # before the training, as all faults
    clean = {name: load(name)[0] for name in {parts_of(noise)[0] for noise in noises}}
    for noise in noises:
        for kind in PICTURES:
            check_replaceable(picture_of(kind, noise, given.table))
        with_noise(clean[parts_of(noise)[0]], noise, numbers[0])
    if given.cleanlab and not find_spec("cleanlab"):
        raise UserError("--cleanlab: pip install cleanlab first")
    Path(given.table).parent.mkdir(parents=True, exist_ok=True)
    for noise in noises:
        data = clean[parts_of(noise)[0]]
        measured, not_changed = measure(data, noise, numbers, given.cleanlab)
        rows = summary(noise, numbers, measured)
        for row in rows:
            print(
                f"{noise:28}{row['method']:38} {row['found']:7} ± {row['found sd']:5}  average precision "
                f"{row['precision']:.3f} ± {row['precision sd']:.3f}  look wrong {row['look wrong']}"
            )
        replace_rows(given.table, rows, ("noise", "sets"))
        own_labels, precision = (picture_of(kind, noise, given.table) for kind in PICTURES)
        if not_changed:
            show_not_changed(own_labels, not_changed, data, len(numbers))
        if parts_of(noise)[2] > 0:
            lines = [(method, [curve(results)]) for method, results in measured.items()]
            panel = {"title": "precision (%)", "x_title": "recall (%)", "y_most": 100}
            title = (
                f"Which share of the suspects is wrong? Mean over {len(numbers)} sets; bands: least to most"
            )
            pictures.draw_lines(precision, title, [(noise, [panel], lines)])


if __name__ == "__main__":
    run_command(main)

"""Computes linear baselines of classification: TF-IDF with logistic regression and linear SVM, and NB-SVM.

    python benchmarks/linear_baselines.py data=sst2 data=trec [out=FILE] [data.train_examples=500 ...]

The models are scikit-learn's. Each data set is read as ``python train.py task=classification data=NAME`` reads it, with
the same splits, class names and fingerprints. Other words are for all data sets. Features are lower-case words, marks
and pairs of neighbours of the whole text. C is chosen on the validation split by the data set's metric; if two are
equal, the smaller one is taken. The model is fitted on the train split alone, because a Transformer sees only that. The
command prints a Markdown table and adds the data sets to ``out``, which `classification_table.py` reads.
"""

import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from rounds import split_words
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.svm import LinearSVC

from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.runs.directory import environment

OWN = {"out": "benchmarks/results/linear_baselines.json"}
WORDS_AND_PAIRS = {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]", "lowercase": True}
METRICS = {"sms_spam": "f1/spam"}
"""The metric of a data set, if it is not accuracy."""
COSTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class NBSVM(ClassifierMixin, BaseEstimator):
    """An SVM over naive Bayes log-count ratios (Wang and Manning 2012, "Baselines and Bigrams", section 2.3).

    Each class is compared with the rest. Features are the ratios r = log((p / |p|) / (q / |q|)) of the n-grams that
    occur, with p and q the smoothed counts in and outside of the class. The weights w of the SVM are interpolated with
    their mean magnitude m = |w|_1 / |V|: (1 - beta) m + beta w. The paper says nothing of the bias b. It is
    interpolated with that of naive Bayes in the same way: (1 - beta) m log(N+ / N-) + beta b.

    Args:
        C: Weight of the SVM's squared hinge loss.
        alpha: Smoothing of the counts.
        beta: Share of the SVM; the paper has 0.25.
    """

    def __init__(self, C: float = 1.0, alpha: float = 1.0, beta: float = 0.25):
        self.C, self.alpha, self.beta = C, alpha, beta

    def fit(self, x: csr_matrix, y: Sequence[str]) -> "NBSVM":
        """Fits on the occurrences (0 or 1) [N, V] and the class of each row."""
        labels = np.asarray(y)
        self.classes_ = np.unique(labels)
        one_is_enough = len(self.classes_) == 2
        fitted = [self._fit_class(x, labels == name) for name in self.classes_[1 if one_is_enough else 0 :]]
        self.coef_, self.intercept_ = np.stack([w for w, _ in fitted]), np.array([b for _, b in fitted])
        return self

    def _fit_class(self, x: csr_matrix, inside: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns weights [V] and bias of one class against the rest."""
        p, q = (self.alpha + np.asarray(x[rows].sum(0)).ravel() for rows in (inside, ~inside))
        ratio = np.log(p / p.sum()) - np.log(q / q.sum())
        svm = LinearSVC(C=self.C, random_state=0, max_iter=1000).fit(x.multiply(ratio).tocsr(), inside)
        mean = (1 - self.beta) * np.abs(svm.coef_[0]).mean()
        bias = mean * math.log(inside.sum() / (~inside).sum()) + self.beta * svm.intercept_[0]
        return (mean + self.beta * svm.coef_[0]) * ratio, float(bias)

    def decision_function(self, x: csr_matrix) -> np.ndarray:
        """Returns scores [N, C] of the classes, or [N] of the second of two."""
        scores = x @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, x: csr_matrix) -> np.ndarray:
        """Returns the class of each row."""
        scores = self.decision_function(x)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]


def baselines(classes: int) -> dict[str, tuple[CountVectorizer, BaseEstimator]]:
    """Maps a name to the features and the model, without a chosen C."""
    logistic = LogisticRegression(solver="liblinear" if classes == 2 else "lbfgs", max_iter=1000, random_state=0)
    tf_idf = TfidfVectorizer(sublinear_tf=True, **WORDS_AND_PAIRS)
    return {
        "TF-IDF + logistic regression": (tf_idf, logistic),
        "TF-IDF + linear SVM": (tf_idf, LinearSVC(random_state=0, max_iter=1000)),
        "NB-SVM": (CountVectorizer(binary=True, **WORDS_AND_PAIRS), NBSVM()),
    }


def scores(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Returns accuracy, macro-F1 and the F1 of each class, in percent."""
    f1 = f1_score(labels, predicted, labels=classes, average=None, zero_division=0)
    metrics = {"accuracy": accuracy_score(labels, predicted), "macro_f1": f1.mean()}
    metrics |= {f"f1/{name}": value for name, value in zip(classes, f1, strict=True)}
    return {name: round(100 * float(value), 2) for name, value in metrics.items()}


def fit_best(
    model: BaseEstimator, x: dict[str, csr_matrix], labels: dict[str, list[str]], metric: str
) -> dict[str, Any]:
    """Fits on train with each C, takes the best on val, and scores that on test.

    C grows until one C does not converge, which is as good as no regularisation. It also stops growing when it has done
    some good and three more bring nothing better.
    """
    start = time.perf_counter()
    classes = sorted(set(labels["train"]))
    found: list[tuple[float, BaseEstimator, dict[str, float]]] = []
    for cost in COSTS:
        reached = [val[metric] for *_, val in found]
        if reached and max(reached[:-3], default=reached[0]) > reached[0] and max(reached[:-3]) >= max(reached[-3:]):
            break
        try:
            with warnings.catch_warnings(action="error", category=ConvergenceWarning):
                fitted = clone(model).set_params(C=cost).fit(x["train"], labels["train"])
        except ConvergenceWarning:
            break
        found.append((cost, fitted, scores(labels["val"], fitted.predict(x["val"]), classes)))
    cost, fitted, val = max(found, key=lambda row: row[2][metric])  # the first one, if several are equal
    test = scores(labels["test"], fitted.predict(x["test"]), classes)
    metrics = {f"val/{metric}": val[metric]} | {f"test/{name}": value for name, value in test.items()}
    seconds = round(time.perf_counter() - start, 1)
    return {"C": cost, "largest_C": found[-1][0], "features": x["train"].shape[1], **metrics, "seconds": seconds}


def measure(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Computes all baselines on one data set."""
    tokens = [
        "tokenizer.kind=word",
        "tokenizer.vocab_size=8",
        "data.cache=false",
    ]  # nobody reads them
    composition = compose(["task=classification", f"data={name}", *tokens, *words])
    prepared = prepare(composition, ("train", "val", "test"))
    text = prepared.texts["classification"]
    texts = {
        split: [" ".join(row) for row in zip(*(rows.columns[role] for role in text.text_roles), strict=True)]
        for split, rows in text.corpus.splits.items()
    }
    labels = {split: [row[0] for row in rows] for split, rows in text.labels.items()}
    frequent = max(Counter(labels["test"]).values()) / len(labels["test"])
    metric, marks = METRICS.get(name, "accuracy"), prepared.fingerprints
    models, features, x = {}, None, {}
    for title, (wanted, model) in baselines(len(prepared.vocab.labels)).items():
        if wanted is not features:
            features, x = wanted, {}
            x["train"] = features.fit_transform(texts["train"])
            x |= {split: features.transform(texts[split]) for split in ("val", "test")}
        models[title] = fit_best(model, x, labels, metric)
    about = environment(composition.config, {}, None)
    return {
        "metric": metric,
        "words": list(words),
        "rows": {split: len(rows) for split, rows in labels.items()},
        "classes": prepared.vocab.labels,
        "most_frequent_class": round(100 * frequent, 2),
        "chosen_on_test": marks["data_val"] == marks["data_test"],
        "fingerprints": {split: marks[split] for split in ("data_train", "data_val", "data_test")},
        "models": models,
        "versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__, "scipy": scipy.__version__},
        "hardware": about["hardware"],
    }


def table(results: dict[str, Any]) -> str:
    """Returns the data sets as Markdown, with scores in percent on the test split and the best in bold."""
    names = list(next(iter(results.values()))["models"])
    lines = [f"| data | metric | train | test | {' | '.join(names)} | most frequent class |"]
    lines.append("|---|---|---:|---:|" + "---:|" * (len(names) + 1))
    for name, result in results.items():
        values = [result["models"][title][f"test/{result['metric']}"] for title in names]
        cells = [f"**{value:.2f}**" if value == max(values) else f"{value:.2f}" for value in values]
        frequent = f"{result['most_frequent_class']:.2f} (accuracy)"
        rows = [f"{result['rows'][split]:,}" for split in ("train", "test")]
        mark = " (1)" if result["chosen_on_test"] else ""
        lines.append("| " + " | ".join([name + mark, result["metric"], *rows, *cells, frequent]) + " |")
    if any(result["chosen_on_test"] for result in results.values()):
        lines += ["", "(1) The validation split is the test split: C was chosen on what is scored."]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measures the data sets of the command line."""
    settings, words = split_words(arguments, OWN)
    names = [word.removeprefix("data=") for word in words if word.startswith("data=")]
    words = [word for word in words if not word.startswith("data=")]
    if not names:
        sys.exit("usage: python benchmarks/linear_baselines.py data=NAME [data=NAME ...] [out=FILE] [KEY=VALUE ...]")
    out = Path(settings["out"])
    for name in names:
        result = measure(name, words)
        known = json.loads(out.read_text()) if out.is_file() else {}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(known | {name: result}, indent=1) + "\n")
        print(f"{name}: {sum(model['seconds'] for model in result['models'].values()):.0f} s", flush=True)
    print("\n" + table(json.loads(out.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The linear baselines: NB-SVM between its two ends, C chosen on the validation split, the rows of a Transformer."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.svm import LinearSVC

from multihead.config.compose import compose
from multihead.data.prepare import prepare

SMALL = ["data.grammar.train_size=300", "data.grammar.val_size=60", "data.grammar.test_size=80"]


@pytest.fixture
def linear():
    import linear_baselines

    return linear_baselines


@pytest.fixture
def rows():
    """Occurrences [N, V] and unbalanced classes of rows that a linear model tells apart in part."""
    rng = np.random.default_rng(0)
    x = csr_matrix((rng.random((90, 20)) < 0.3).astype(float))
    scores = x @ rng.normal(size=(20, 3)) + rng.normal(size=(90, 3)) + [0.5, 0.0, -0.5]
    return x, np.array(["a", "b", "c"])[scores.argmax(1)]


def test_nb_svm_without_svm_is_naive_bayes(linear, rows):
    """beta = 0: of two classes, scikit-learn's multinomial naive Bayes up to the mean magnitude of the weights."""
    x, labels = rows
    labels = np.where(labels == "a", "yes", "no")
    ours = linear.NBSVM(beta=0.0).fit(x, labels)
    theirs = MultinomialNB(alpha=1.0).fit(x, labels).predict_joint_log_proba(x)
    odds, scores = theirs[:, 1] - theirs[:, 0], ours.decision_function(x)
    np.testing.assert_allclose(scores / odds, np.full(90, scores[0] / odds[0]))
    assert scores[0] / odds[0] > 0


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_nb_svm_by_its_formula(linear, rows, beta):
    """Each class against the rest, written out with dense arrays (Wang and Manning 2012, equations 1, 2 and 4)."""
    x, labels = rows
    dense, scores = x.toarray(), []
    for name in "abc":
        p, q = 1 + dense[labels == name].sum(0), 1 + dense[labels != name].sum(0)
        r = np.log((p / p.sum()) / (q / q.sum()))
        svm = LinearSVC(C=0.5, random_state=0, max_iter=1000).fit(csr_matrix(dense * r), labels == name)
        mean = np.abs(svm.coef_).mean()
        prior = np.log((labels == name).sum() / (labels != name).sum())
        weights = (1 - beta) * mean + beta * svm.coef_[0]
        scores.append((dense * r) @ weights + (1 - beta) * mean * prior + beta * svm.intercept_[0])
    ours = linear.NBSVM(C=0.5, beta=beta).fit(x, labels)
    np.testing.assert_allclose(ours.decision_function(x), np.stack(scores, axis=1), atol=1e-10)
    assert (ours.predict(x) == np.array(list("abc"))[np.argmax(scores, axis=0)]).all()


def test_c_is_chosen_on_the_validation_split_alone(linear):
    words = [f"w{i}" for i in range(12)]
    rng = np.random.default_rng(1)
    texts = {split: [" ".join(rng.choice(words, 5)) for _ in range(60)] for split in ("train", "val", "test")}
    labels = {split: ["yes" if "w0" in t or rng.random() < 0.3 else "no" for t in texts[split]] for split in texts}
    model = LogisticRegression(solver="liblinear", random_state=0)
    features = TfidfVectorizer().fit(texts["train"])
    x = {split: features.transform(texts[split]) for split in texts}
    found = linear.fit_best(model, x, labels, "accuracy")
    flipped = labels | {"test": ["no" if label == "yes" else "yes" for label in labels["test"]]}
    other = linear.fit_best(model, x, flipped, "accuracy")
    assert (found["C"], found["val/accuracy"]) == (other["C"], other["val/accuracy"])
    assert found["test/accuracy"] == pytest.approx(100 - other["test/accuracy"])
    by_hand = []
    for cost in linear.COSTS[: linear.COSTS.index(found["largest_C"]) + 1]:
        fitted = LogisticRegression(C=cost, solver="liblinear", random_state=0)
        fitted.fit(x["train"], labels["train"])
        by_hand.append(fitted.score(x["val"], labels["val"]))
    assert found["C"] == linear.COSTS[int(np.argmax(by_hand))]


def test_regularised_to_the_ground_is_not_the_end(linear):
    """While C is so small that all rows get the frequent class, no C is better than the one before."""
    rng = np.random.default_rng(2)
    seen = rng.random((200, 30)) < 0.02
    labels = ["yes" if row[:3].any() else "no" for row in seen]
    x = dict.fromkeys(("train", "val", "test"), csr_matrix(seen.astype(float)))
    model = LogisticRegression(solver="liblinear", random_state=0)
    found = linear.fit_best(model, x, dict.fromkeys(x, labels), "f1/yes")
    weak = LogisticRegression(C=0.03, solver="liblinear").fit(x["train"], labels)
    assert set(weak.predict(x["val"])) == {"no"}
    assert found["val/f1/yes"] == 100.0


def test_scores_by_hand(linear):
    """Class a: 2 right of 3 said and of 2 there, F1 0.8; b: 1 of 1 and of 2, F1 2/3."""
    metrics = linear.scores(["a", "a", "b", "b"], ["a", "a", "a", "b"], ["a", "b"])
    assert metrics == {"accuracy": 75.0, "macro_f1": 73.33, "f1/a": 80.0, "f1/b": 66.67}


def test_the_rows_are_those_of_the_framework(linear, tmp_path, capsys):
    out = tmp_path / "linear.json"
    linear.main(["data=grammar", f"out={out}", *SMALL])
    result = json.loads(out.read_text())["grammar"]
    prepared = prepare(compose(["task=classification", "data=grammar", *SMALL]), ("train", "val", "test"))
    assert result["fingerprints"] == {k: v for k, v in prepared.fingerprints.items() if k.startswith("data_")}
    assert result["rows"] == {"train": 300, "val": 60, "test": 80}
    assert not result["chosen_on_test"]
    assert set(result["hardware"]) == {"processor", "cores", "gpus"}
    printed = capsys.readouterr().out.splitlines()
    best = max(model["test/accuracy"] for model in result["models"].values())
    assert any(line.startswith("| grammar | accuracy | 300 | 80 |") and f"**{best:.2f}**" in line for line in printed)

"""Scores against sacreBLEU's public functions, alone and over two gloo ranks."""

import copy
import random
import warnings

import pytest
import sacrebleu
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics.functional.text.rouge import rouge_score
from trial import FORKS

from multihead.metrics.text import CorpusBLEU, CorpusCHRF, CorpusROUGE, CorpusTER, WeightedMean

SENTENCE = "Ein Mann im roten Hemd läßt sich, während er geht, von 3.5 Frauen (lachend) filmen . !"


def corpus(n, seed=0):
    """References, and hypotheses with replaced, missing and upper-case words; some are empty."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(SENTENCE.split(), k=draw.randint(1, 15))) for _ in range(n)]
    hypotheses = [" ".join(w.upper() if draw.random() < 0.1 else w for w in line.split() if draw.random() < 0.9)
                  for line in references]  # fmt: skip
    return ["" if i % 17 == 3 else line for i, line in enumerate(hypotheses)], references


def plain(text):
    """The text in ASCII, where torchmetrics' words are ours."""
    return text.translate(str.maketrans("äöüß", "aous")).encode("ascii", "ignore").decode()


def in_batches(metric, hypotheses, references, size=7):
    for i in range(0, len(hypotheses), size):
        metric.update(hypotheses[i : i + size], references[i : i + size])
    return metric


@pytest.mark.parametrize(
    "options", [{}, {"lowercase": True}, {"lowercase": True, "tokenize": "none"}, {"tokenize": "char"}]
)
def test_bleu_is_sacrebleus(options):
    hypotheses, references = corpus(200)
    metric = in_batches(CorpusBLEU(**options), hypotheses, references)
    reference = sacrebleu.metrics.BLEU(**options)
    assert metric.compute().item() == reference.corpus_score(hypotheses, [references]).score
    assert metric.signature() == str(reference.get_signature())
    assert 20 < metric.compute() < 95


def test_signature_says_how_the_score_was_made():
    expected = f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert CorpusBLEU().signature() == expected
    assert "case:lc" in CorpusBLEU(lowercase=True).signature()


@pytest.mark.parametrize("options", [{}, {"lowercase": True}, {"word_order": 2}])
def test_chrf_is_sacrebleus(options):
    hypotheses, references = corpus(200)
    metric = in_batches(CorpusCHRF(**options), hypotheses, references)
    reference = sacrebleu.metrics.CHRF(**options)
    assert metric.compute().item() == reference.corpus_score(hypotheses, [references]).score
    assert metric.signature() == str(reference.get_signature())


def test_ter_is_sacrebleus():
    hypotheses, references = corpus(60)
    metric = in_batches(CorpusTER(), hypotheses, references)
    assert CorpusTER.higher_is_better is False and CorpusBLEU.higher_is_better is CorpusROUGE.higher_is_better is True
    assert metric.compute().item() == sacrebleu.metrics.TER().corpus_score(hypotheses, [references]).score
    assert metric.signature().startswith("nrefs:1|case:lc|tok:tercom|")
    assert 0 < metric.compute() < 60


def test_chinese_is_scored_by_its_own_words():
    references = ["那个人读了一本书。", "她在车站买了一只猫。"]
    outputs = ["那个人读了一本新书。", "她在车站买了一只猫。"]
    scores = {}
    for tokenize in ("13a", "zh", "char"):
        metric = in_batches(CorpusBLEU(tokenize=tokenize), outputs, references)
        assert metric.compute().item() == sacrebleu.corpus_bleu(outputs, [references], tokenize=tokenize).score
        assert f"|tok:{tokenize}|" in metric.signature()
        scores[tokenize] = metric.compute().item()
    assert scores["13a"] == 0 and scores["zh"] > 70


def test_a_metric_can_be_copied_whatever_its_tokenizer_holds(monkeypatch):
    """MeCab's tagger cannot be copied, and averaging the weights copies the whole task."""

    class Uncopied(sacrebleu.metrics.BLEU):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle 'SwigPyObject' object")

    monkeypatch.setattr("multihead.metrics.text.BLEU", Uncopied)
    metric = CorpusBLEU(lowercase=True, tokenize="intl")
    metric.update(["a b c d"], ["a b c d"])
    copied = copy.deepcopy(metric)
    assert copied.compute() == metric.compute() == pytest.approx(100)


@pytest.mark.parametrize("cls", [CorpusBLEU, CorpusCHRF])
def test_edges(cls):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics warns where compute precedes update
        assert cls().compute().item() == 0
    metric = cls()
    metric.update([], [])
    assert metric.compute().item() == 0
    metric.update(["", ""], ["Ein Mann", ""])
    public = {CorpusBLEU: sacrebleu.corpus_bleu, CorpusCHRF: sacrebleu.corpus_chrf}[cls]
    assert metric.compute().item() == public(["", ""], [["Ein Mann", ""]]).score
    metric.reset()
    metric.update(["Ein Mann geht heim ."], ["Ein Mann geht heim ."])
    assert metric.compute().item() == pytest.approx(100)
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        metric.update([""], ["", ""])


def test_weighted_mean_is_the_mean_over_tokens():
    mean = WeightedMean()
    mean.update(torch.tensor(6.0), torch.tensor(2))
    mean.update(1.0, 8)
    assert mean.compute().item() == pytest.approx(0.7) and mean.compute().dtype == torch.float64
    mean.reset()
    for _ in range(1000):
        mean.update(torch.tensor(0.1, dtype=torch.float64), 1)
    assert mean.compute().item() == pytest.approx(0.1, abs=1e-14)


SHARES = {"equal": (0, 50, 100), "unequal": (0, 13, 100), "one rank empty": (0, 0, 100)}


def rank(number, address, results):
    """One of two ranks: its share of the corpus under each split, its synchronised scores to ``results``."""
    warnings.simplefilter("ignore", UserWarning)  # compute before update, on the empty rank
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=number, world_size=2)
    hypotheses, references = corpus(100)
    scores = {}
    for name, cuts in SHARES.items():
        share = slice(cuts[number], cuts[number + 1])
        bleu = in_batches(CorpusBLEU(), hypotheses[share], references[share])
        chrf = in_batches(CorpusCHRF(), hypotheses[share], references[share])
        mean = WeightedMean()
        for i in range(100)[share]:
            mean.update(1 / (i + 1), i % 5)
        in_ascii = ([plain(text) for text in texts[share]] for texts in (hypotheses, references))
        rouge = in_batches(CorpusROUGE("rouge2"), *in_ascii)
        scores[name] = bleu.compute().item(), chrf.compute().item(), mean.compute().item(), rouge.compute().item()
    results.put(scores)
    dist.destroy_process_group()


def test_two_ranks_score_as_one(tmp_path):
    results = FORKS.SimpleQueue()
    mp.start_processes(rank, (f"file://{tmp_path}/rendezvous", results), nprocs=2, start_method="forkserver")
    hypotheses, references = corpus(100)
    mean = sum(1 / (i + 1) for i in range(100)) / sum(i % 5 for i in range(100))
    bleu = sacrebleu.corpus_bleu(hypotheses, [references]).score
    chrf = sacrebleu.corpus_chrf(hypotheses, [references]).score
    ascii_only = [[plain(text) for text in texts] for texts in (hypotheses, references)]
    rouge = 100 * rouge_score(*ascii_only, rouge_keys="rouge2")["rouge2_fmeasure"].item()
    for _ in range(2):
        for name, scores in results.get().items():
            expected = (bleu, chrf, pytest.approx(mean, abs=1e-15), pytest.approx(rouge, rel=1e-5))
            assert scores == expected, name


def test_rouge_of_a_worked_example():
    # the cat sat on the mat, the cat lay on a mat: they share 4 of 6 words (the, cat, on, mat), 1 of 5 pairs (the cat),
    # and the longest common subsequence is "the cat on mat"
    hypothesis, reference = ["The cat sat on the mat."], ["the cat lay on a mat"]
    expected = {"rouge1": 400 / 6, "rouge2": 100 / 5, "rougeL": 400 / 6}
    for key, score in expected.items():
        metric = CorpusROUGE(key)
        metric.update(hypothesis, reference)
        assert metric.compute().item() == pytest.approx(score, rel=1e-5)
        metric.update(reference, reference)
        assert metric.compute().item() == pytest.approx((score + 100) / 2, rel=1e-5)
    assert CorpusROUGE("rouge1").compute() == 0
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        CorpusROUGE("rouge1").update(["a"], ["a", "b"])


@pytest.mark.parametrize("key", ["rouge1", "rouge2", "rougeL"])
def test_rouge_agrees_with_torchmetrics_over_a_corpus(key):
    hypotheses, references = ([plain(text) for text in texts] for texts in corpus(100))
    metric = in_batches(CorpusROUGE(key), hypotheses, references)
    reference = rouge_score(hypotheses, references, rouge_keys=key)[f"{key}_fmeasure"]
    assert metric.compute().item() == pytest.approx(100 * reference.item(), rel=1e-5)

"""The names that people give to columns, and what the cells of a column are."""

from __future__ import annotations

import re


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.split("/") for pair in text.split())
    return tuple((first, second) for first, second in pairs)


LABELS = _names("""
    label_text label_name label labels class class_name category categories target sentiment intent gold_label
    emotion y
""")
"""Names of a column of classes, the most usual ones first."""
WEAK_LABELS = _names("""
    topic rating stars star_rating score polarity tag tags genre type language lang airline_sentiment is_spam spam
    subreddit domain department priority
""")
"""Names of columns that hold classes if no column of `LABELS` is there."""
NUMBERS = _names("""
    score label value rating stars grade similarity similarity_score relatedness_score target y price salary points
    polarity_score complexity difficulty age
""")
"""Names of a column of numbers that a regression predicts, the most usual ones first."""
TEXTS = _names("""
    text sentence review review_text reviewtext review_body body comment comment_text content contents message
    tweet utterance document article post question query description headline abstract news sms text_clean
    sentences texts reviews story transcript title subject summary
""")
"""Names of a column of texts, the most usual ones first."""
STRONG_TEXTS = TEXTS[: TEXTS.index("description") + 1]
"""Names of columns that hold the text itself; the others may be a title of it."""
PAIRS = _pairs("""
    sentence1/sentence2 sentence_1/sentence_2 premise/hypothesis question1/question2 text1/text2 text_a/text_b
    text/text_b text/text_pair sentence_a/sentence_b s1/s2 question/sentence query/passage claim/evidence
""")
"""Names of two columns of texts that are classified together."""
TRANSLATED = _pairs("""
    source/target src/tgt src/trg source_text/target_text input/output input_text/target_text inputs/targets
    question/answer prompt/completion prompt/response instruction/output instruction/response commands/actions
    lemma/form original/simplified word/pronunciation
""")
"""Names of the columns of a sequence-to-sequence task, source first."""
SUMMARIZED = _pairs("""
    document/summary article/highlights article/summary text/summary dialogue/summary body/subject content/title
    description/title text/headline text/title article/title body/title source/target src/tgt input/output
""")
"""Names of the columns of a summarization, the long text first."""
LANGUAGES = _names("""
    af ar az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr ga gl gu he hi hr hu hy is it ja ka kk km
    kn ko ku ky la lo lt lv mk ml mn mr ms mt my nb ne nl nn no oc pa pl ps pt ro ru si sk sl so sq sr sv sw ta te
    tg th tr uk ur uz vi xh yi yo zh zu eng deu ger fra fre spa ita por rus jpn zho cmn kor nld pol english german
    french spanish italian portuguese russian japanese chinese korean dutch polish
""")
"""Codes and names of languages, by which columns and files of translations are named."""
NO_HEADER = _names("y la no is so my he it as et te be pa")
"""Names above that are words of a language too, so that they do not show that a row is a header."""
USUAL = (
    {*LABELS, *WEAK_LABELS, *TEXTS, *LANGUAGES, *_names("id idx index date created author user url name split")}
    | {name for pair in (*PAIRS, *TRANSLATED, *SUMMARIZED) for name in pair}
) - {*NO_HEADER}
"""Names by which a row is recognised as a header."""
MISSING = ("", "-", "null", "none", "nan", "n/a", "na", "nil", "?", "unknown", "-1")
"""Cells of a label column that may mean that there is no label."""


AMBIGUOUS = re.compile(r"[+-]?(?!0,)\d{1,3},\d{3}")
"""A number whose comma may separate thousands or decimals: 1,100."""


def normal(name: str) -> str:
    """Returns the name of a column without its case, and with underscores for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def is_number(text: str) -> bool:
    """Returns whether a cell is a number."""
    try:
        float(text.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def language(name: str) -> str:
    """Returns the language that a column or the ending of a file names, such as ``en`` of ``en-US``, or nothing."""
    code = re.split(r"[_-]", name.strip().lower().rsplit(".", 1)[-1])[0]
    return code if code in LANGUAGES else ""

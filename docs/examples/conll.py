"""Files with a word and its tag on each line, and an empty line between sentences (CoNLL 2003, cs/0306050):

    multihead train task=tagging plugin=docs/examples/plugins/tagging.py:docs/examples/conll.py data=tagged.conll \
        data.format=conll 'data.roles={text: words, target: tags}' tokenizer.kind=word tokenizer.joint=false \
        model.tie_embeddings=none

With tokenizer.kind=word, all words that the vocabulary lacks are the same token, <unk>.
"""

from multihead.plugin import Plugin


def conll(path, columns, config):
    """The first and the last cell of each line; the lines of a sentence are one row."""
    words, tags, row = [], [], []
    for line in [*path.read_text(encoding=config.encoding).split("\n"), ""]:
        if line.strip():
            word, *_, tag = line.rstrip().split("\t" if "\t" in line else None)
            row.append((word, tag))
        elif row:
            words.append(" ".join(word for word, _ in row))
            tags.append(" ".join(tag for _, tag in row))
            row = []
    return {"words": words, "tags": tags}


PLUGIN = Plugin(readers={"conll": conll})

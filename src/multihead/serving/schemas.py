"""What requests and answers look like. Unknown keys and values of another type are refused with status 422."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST_BEAMS = 16
MOST_NEW_TOKENS = 512

Text = Annotated[str, Field(description="A text.")]
Inputs = Annotated[
    str | Annotated[list[str], Field(min_length=1)],
    Field(description="One text, or a list of texts.", examples=["The dog sleeps."]),
]
RunName = Annotated[
    str | None, Field(max_length=100, description="Name of a run; by default the first run that answers this verb.")
]
NewTokens = Annotated[int | None, Field(ge=1, le=MOST_NEW_TOKENS, description="Most tokens of an output.")]
Prefix = Annotated[
    list[Annotated[int, Field(ge=0, le=10_000_000)]] | None,
    Field(max_length=MOST_NEW_TOKENS, description="Ids of tokens that every output starts with."),
]
Details = Annotated[bool, Field(description="Whether each token of the best output comes with its probability.")]


class Question(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    run: RunName = None


class Translate(Question):
    """Texts to translate or to summarize. Options that are missing have the values of the run's configuration."""

    inputs: Inputs
    num_beams: Annotated[int | None, Field(ge=1, le=MOST_BEAMS, description="1 is greedy search.")] = None
    length_penalty: Annotated[float | None, Field(ge=-10, le=10)] = None
    num_return_sequences: Annotated[int | None, Field(ge=1, le=MOST_BEAMS, description="At most num_beams.")] = None
    max_new_tokens: NewTokens = None
    prefix: Prefix = None
    details: Details = False


class Generate(Question):
    """Prompts to continue.

    With temperature, top_k, top_p or seed, tokens are drawn; temperature=0 takes the most probable token. Without any
    of them, the run's configuration decides. With plain=true, the run's options of decoding do not count.
    """

    inputs: Inputs
    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000, description="0 keeps all tokens.")] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=0, le=2**63 - 1)] = None
    max_new_tokens: NewTokens = None
    plain: Annotated[
        bool, Field(description="Whether the run's own options are left out, so that only those of the request count.")
    ] = False
    prefix: Prefix = None
    details: Details = False
    stream: Annotated[bool, Field(description="Whether tokens are sent as they come, as server-sent events.")] = False


class Classify(Question):
    """Texts to classify. A pair of texts is TEXT, a tab, TEXT_B."""

    inputs: Inputs
    occlusion: Annotated[bool, Field(description="Whether each word is left out once, to see what it changes.")] = False


class Texts(Question):
    """Texts."""

    inputs: Inputs


class Score(Question):
    """Texts to score: sources and targets of a translation or summarization, or texts alone of a language model."""

    inputs: Inputs
    targets: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None, Field(description="One target for each input.")
    ] = None


class Attention(Question):
    """A text whose attention is shown. A translator or summarizer reads ``target``; if it is empty, its own output."""

    input: Text
    target: Text | None = None


class Candidate(BaseModel):
    """One output and its score, log p / length**length_penalty."""

    text: str
    score: float


class NextToken(BaseModel):
    """A token that may stand at a place."""

    id: int
    text: str
    probability: float


class Token(NextToken):
    """A token of an output, and the most probable tokens at its place."""

    next: list[NextToken]


class Written(BaseModel):
    """The outputs for an input, best first. ``truncated`` says whether the input was longer than the model reads."""

    text: str
    candidates: list[Candidate]
    tokens: list[Token] | None
    truncated: bool


class WrittenAnswer(BaseModel):
    """What a run wrote."""

    run: str
    outputs: list[Written]


class WordEffect(BaseModel):
    """A word, and the probability of the label with it minus without it; null if no text is left without it."""

    text: str
    effect: float | None


class Classified(BaseModel):
    """The class of a text; null for a blank text. ``labels`` are all its classes if the run gives several."""

    label: str | None
    probability: float | None
    labels: list[str] | None
    probabilities: dict[str, float]
    words: list[WordEffect] | None
    truncated: bool


class ClassifyAnswer(BaseModel):
    """The classes of texts."""

    run: str
    outputs: list[Classified]


class Number(BaseModel):
    """The number of a text; null for a blank text."""

    number: float | None


class RegressAnswer(BaseModel):
    """The numbers of texts."""

    run: str
    outputs: list[Number]


class Scored(BaseModel):
    """log p of a text in nats, and its tokens; the last token is the end mark."""

    log_probability: float
    tokens: list[Token]


class ScoreAnswer(BaseModel):
    """The scores of texts."""

    run: str
    outputs: list[Scored]


Weights = list[list[list[list[float]]]]


class AttentionAnswer(BaseModel):
    """Weights by layer, head, query and key; null for a kind of attention that the run does not have."""

    run: str
    source_tokens: list[str] | None
    target_tokens: list[str] | None
    encoder: Weights | None
    decoder: Weights | None
    cross: Weights | None


class EmbedAnswer(BaseModel):
    """One vector for each text."""

    run: str
    embeddings: list[list[float]]


class RunDescription(BaseModel):
    """What a run is and answers."""

    name: str
    task: str
    verbs: list[str]
    labels: list[str] | None
    num_layers: int
    num_heads: int
    attention: list[str]
    max_len: int
    parameters: int
    filtered: Annotated[
        bool, Field(description="Whether options of the run other than temperature and top_p change probabilities.")
    ]
    examples: list[str]


class RunsAnswer(BaseModel):
    """The runs of this server."""

    runs: list[RunDescription]


class Status(BaseModel):
    """Whether the server is well."""

    status: str


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str

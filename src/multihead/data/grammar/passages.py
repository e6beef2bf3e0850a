"""Short passages with their gist: one sentence that joins facts from several places of the passage.

A passage introduces a person and says what happened to them, what somebody else did meanwhile, and how it ended. The
gist says who the person is and how it ended:

    Anna is a young teacher from Paris. Yesterday Anna lost her key in the park.
    Meanwhile Paul sold a boat at the harbour. After a long search, Anna found it at the school.
    Anna, the teacher from Paris, found her key at the school.
"""

from __future__ import annotations

from multihead.data.grammar.sampling import Sampler, read_rules

RULES = """
Passage = 1 told woman Job town man Story Other | 1 told man Job town woman Story Other
Job = 1 plain job | 1 described trait job
Story = 1 story lost time thing place place | 1 story wanted time thing place place
    | 1 story broken time thing place place
Other = 1 other meanwhile deed thing place
"""
WORDS = {
    "woman": "Anna|Maria|Julia|Laura|Sarah|Emma|Clara|Nina|Helen|Lucy|Alice|Ruth",
    "man": "Paul|Peter|Thomas|Simon|David|Oscar|Felix|Martin|Henry|Jack|Leo|Max",
    "job": """teacher|baker|doctor|painter|farmer|singer|waiter|judge|cook|pilot|nurse|student|gardener|writer
driver|sailor|tailor|dentist""",
    "trait": "young|tall|famous|clever|friendly|quiet|rich|tired|brave|lonely",
    "town": "Paris|London|Berlin|Rome|Madrid|Vienna|Oslo|Dublin|Prague|Lisbon|Athens|Warsaw",
    "time": "yesterday|last week|on Monday|this morning|two days ago|in the summer|on Friday|last night",
    "thing": """key|ring|camera|umbrella|bicycle|guitar|clock|lamp|hat|coat|bag|phone|computer|map|watch|boat|book
suitcase|mirror|blanket""",
    "place": """in the park|at the station|at the market|in the library|on the beach|in the garden|at the school
at the harbour|in the museum|in the old town|near the river|behind the church|at the airport|in the village""",
    "meanwhile": "meanwhile|at the same time|on the same day|not far away",
    "deed": "sold|bought|painted|cleaned|repaired|found|lost|hid|broke|carried",
    "lost": """lost {own} {thing} {here};after a long search, {name} found it {there};found {own} {thing} {there}
lost {own} {thing} {here};{she} looked for it {there}, but {she} did not find it;lost {own} {thing} {here}
left {own} {thing} {here};a stranger brought it back to {her} {there};got {own} {thing} back {there}""",
    "wanted": """wanted to buy a {thing} {here};none was cheap, not even {there};did not buy a {thing} {here}
wanted to buy a {thing} {here};it was too expensive, but {she} found a cheap one {there};bought a {thing} {there}
looked for a {thing} {here};in the end, {name} bought one {there};bought a {thing} {there}""",
    "broken": """broke {own} {thing} {here};in the evening, {she} repaired it {there};repaired {own} {thing} {there}
broke {own} {thing} {here};nobody could repair it {there}, so {name} threw it away;threw {own} {thing} away
saw {here} that {own} {thing} was dirty;{she} cleaned it at once {there};cleaned {own} {thing} {there}""",
}
"""A story has three pieces: what happened to {name}, how it ended, and what the gist says.

Each story uses every word that is drawn for it. Otherwise a passage would have several derivations.
"""

TABLE = read_rules({name: text.replace("\n", "|").split("|") for name, text in WORDS.items()}, RULES)
WOMEN = set(WORDS["woman"].split("|"))


def draw(sampler: Sampler) -> tuple[str, str, float]:
    """Returns a passage, its gist, and the natural logarithm of the probability of its derivation."""
    tree, log_prob = sampler.draw("Passage")
    _, (name,), job, (town,), (other,), story, deed = tree
    _, (plot,), (time,), (thing,), (here,), (there,) = story
    _, (meanwhile,), (did,), (object_,), (place,) = deed
    she, her, own = ("she", "her", "her") if name in WOMEN else ("he", "him", "his")
    words = {"name": name, "thing": thing, "here": here, "there": there, "she": she, "her": her, "own": own}
    problem, end, gist = (part.format(**words) for part in plot.split(";"))
    lines = [
        f"{name} is a {_job(job)} from {town}",
        f"{time} {name} {problem}",
        f"{meanwhile} {other} {did} a {object_} {place}",
        end,
    ]
    passage = " ".join(f"{line[0].upper()}{line[1:]}." for line in lines).replace(" a umb", " an umb")
    return passage, f"{name}, the {job[-1][0]} from {town}, {gist}.".replace(" a umb", " an umb"), log_prob


def _job(tree: tuple) -> str:
    return " ".join(word for (word,) in tree[1:])

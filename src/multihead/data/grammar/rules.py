"""The rules of the English-German sentences: every choice in a sentence, with its weight.

A line holds a category and its weighted alternatives. An alternative is the name of a rule, which the linearisers know,
and the categories of its children. Lower-case categories are words (`lexicon.WORDS`).
"""

from multihead.data.grammar.lexicon import WORDS
from multihead.data.grammar.sampling import read_rules

RULES = """
Sentence = 20 say Clause | 12 front When Fact | 9 late When Light | 12 linked Link Core Core
    | 10 linked_first Link Core Core | 12 report Matrix Subject say Clause | 3 report_not Matrix Subject say Clause
    | 3 whether Matrix Subject ask Clause | 7 join Tense join Core Core | 4 exists Matrix New Place
    | 5 question Tense Core | 2 ask why Tense Deed | 1 ask_where Matrix Subject rest | 2 ask_who Tense Predicate

Clause = 8 clause Tense Core | 3 clause modal Deed | 1 clause liking Gladly
Core = 10 - Fact | 1 often frequency Subject Short
Fact = 26 - Deed | 4 does Crowd Predicate | 2 does Subject Counted
    | 4 does Subject PersonIs | 2 does_not Subject PersonIs
    | 4 does ThingSubject ThingIs | 2 does_not ThingSubject ThingIs
    | 4 does AnimalSubject AnimalPredicate | 2 does_not AnimalSubject AnimalPredicate
    | 2 does FoodSubject FoodIs | 1 does_not FoodSubject FoodIs
Deed = 10 does Subject Predicate | 4 does_not Subject Predicate
Light = 10 does Subject Short | 3 does_not Subject Short
Gladly = 1 does Subject Short

Tense = 3 - present | 4 - past | 2 - perfect | 1 - future
Matrix = 1 - present | 1 - past
When = 3 when past past_time | 2 when present present_time | 2 when future future_time
Link = 4 link Matrix conjunction | 4 link Tense cause | 1 link past when | 1 link present if

Predicate = 7 - Short | 3 - Long
Short = 3 intr intransitive | 1 intr rest | 3 at rest Where | 4 go move Goal
    | 1 with together PersonDat | 1 manner rest manner
    | 5 trans person_verb PersonAcc | 2 trans animal_verb AnimalObject | 6 trans thing_verb ThingObject
    | 2 trans_at thing_verb ThingObject Where | 3 trans food_verb FoodObject | 3 trans dative_verb PersonDat
    | 4 give give PersonDat ThingObject | 3 trans acc_verb PersonOn | 2 trans dat_verb PersonDat
Long = 3 trans person_verb PersonLong | 5 trans thing_verb ThingLong | 1 trans dative_verb PersonLong
    | 1 trans acc_verb PersonLong | 2 give give PersonDat ThingLong | 4 try try Short

PersonIs = 5 be PersonDegree | 2 compare person_more PersonDef | 3 feel state
ThingIs = 5 be ThingDegree | 2 compare thing_more ThingDef | 3 at lie Where
AnimalPredicate = 2 intr animal_act | 2 at animal_act Where | 1 go animal_move Goal | 1 be AnimalDegree
    | 2 trans animal_eat FoodObject
FoodIs = 1 be FoodDegree

Subject = 15 - pronoun | 6 - name | 20 - PersonDef | 4 - PersonIndef | 9 rel PersonPlain PersonRel
Crowd = 2 one every PersonAdj person | 2 one no PersonAdj person | 3 many quantifier PersonAdj person
    | 1 many all PersonAdj person
PersonAcc = 3 - pronoun_acc | 1 - name | 6 - PersonObject
PersonOn = 2 - pronoun_acc | 1 - name | 5 - PersonDef
PersonDat = 2 - pronoun_dat | 1 - name | 5 - PersonDef
ThingSubject = 6 - ThingDef | 2 rel ThingPlain ThingRel
AnimalSubject = 8 - AnimalDef | 2 - AnimalIndef | 3 rel AnimalPlain AnimalRel
FoodSubject = 2 - FoodDef | 1 rel FoodPlain FoodRel
Counted = 1 trans thing_verb Number
Number = 1 many quantifier ThingAdj thing
New = 1 - PersonIndef | 1 - AnimalIndef | 1 - ThingIndef | 1 one no PersonAdj person
    | 1 many quantifier AnimalAdj animal

PersonRel = 5 who RelTense Short | 3 whom RelTense Agent person_verb | 1 whom RelTense Agent dative_verb
    | 1 whom RelTense Agent acc_verb | 1 whom RelTense Agent dat_verb | 1 who RelTense PersonIs
PersonRelLong = 5 - PersonRel | 1 who RelTense Nested
Nested = 1 trans thing_verb ThingLong
ThingRel = 4 whom RelTense Agent thing_verb | 2 who Matrix ThingIs
AnimalRel = 1 whom RelTense Agent animal_verb
FoodRel = 1 whom RelTense Agent food_verb
RelTense = 2 - present | 2 - past | 1 - perfect
Agent = 3 - pronoun_clear | 3 one the PersonAdj person_clear | 1 one this PersonAdj person_clear
PersonLong = 3 rel PersonPlain PersonRelLong | 1 rel PersonIndef PersonRelLong
ThingLong = 3 rel ThingPlain ThingRel | 1 rel ThingIndef ThingRel

Where = 12 in_place PlaceDef | 1 - at_home
Place = 1 in_place PlaceDef
Goal = 5 to PlaceDef | 3 into PlaceInDef | 2 - home
PlaceDef = 6 one the PlaceAdj place | 1 one this PlaceAdj place | 1 one possessive PlaceAdj place
PlaceInDef = 4 one the PlaceAdj place_in | 1 one this PlaceAdj place_in
PlaceAdj = 3 none | 1 - place_adj
"""

NOUN_PHRASES = """
{0}Plain = 5 one the {0}Adj {1} | 1 one this {0}Adj {1} | 2 many the {0}Adj {1}
{0}Def = 6 one the {0}Adj {1} | 1 one this {0}Adj {1} | 3 one possessive {0}Adj {1} | 2 many the {0}Adj {1}
    | 1 many these {0}Adj {1} | 1 many possessive {0}Adj {1} | 1 owned person {0}Adj {1}
{0}Indef = 1 one a {0}Adj {1}
{0}Object = 5 - {0}Def | 2 - {0}Indef | 1 many bare {0}Adj {1}
{0}Adj = 12 none | 4 - {1}_adj | 1 very {1}_adj
{0}Degree = 3 - {1}_adj | 2 very {1}_adj | 1 too {1}_adj
"""
"""The noun phrases, which have the same shape for each kind of noun."""

TABLE = read_rules(
    WORDS, RULES, *(NOUN_PHRASES.format(kind, kind.lower()) for kind in ("Person", "Animal", "Thing", "Food"))
)
"""The rules as data."""

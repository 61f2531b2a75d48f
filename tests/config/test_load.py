"""YAML to plain data with positions: scalars, variables, duplicates, aliases, and text that is no YAML."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.load import Bare, load
from proxy.errors import ConfigError


def problems(text, **environ):
    try:
        document = load(text, environ, "f")
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return [str(problem) for problem in document.error().problems]


@pytest.mark.parametrize(
    "text,value",
    [
        ("5", 5),
        ("-5", -5),
        ("1.5", 1.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("010", "010"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        ("5%", "5%"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("y", "y"),
        ("9" * 30, "9" * 30),
    ],
)
def test_scalars_mean_what_they_look_like(text, value):
    data = load(f"key: {text}", {}, "f").data["key"]
    assert (data, type(data)) == (value, type(value))


@pytest.mark.parametrize("word", ["yes", "No", "on", "OFF"])
def test_words_that_others_take_for_booleans_are_marked(word):
    assert isinstance(load(f"key: {word}", {}, "f").data["key"], Bare)
    assert not isinstance(load(f"key: '{word}'", {}, "f").data["key"], Bare)


def test_every_key_and_value_has_a_place():
    document = load("a:\n  - b: 1\n    cc: [x,   yy]\n", {}, "f")
    place = document.places["a", 0, "cc", 1]
    assert (place.key, place.line, place.column, place.shown) == ("a[0].cc[1]", 3, 15, "yy")
    assert (document.places["a", 0, "cc"].key_line, document.places["a", 0, "cc"].key_column) == (3, 5)
    assert document.place(("a", 0, "missing", "deeper")) is document.places["a", 0]


@pytest.mark.parametrize(
    "value,expected",
    [
        ("${NAME}", "it"),
        ("'${NAME}'", "it"),
        ("a ${NAME} b ${NAME}", "a it b it"),
        ("${ABSENT:-else}", "else"),
        ("${EMPTY:-else}", "else"),
        ("${ABSENT:-}", ""),
        ("${ABSENT:-http://h:1/}", "http://h:1/"),
        ("$${NAME}", "${NAME}"),
        ("$NAME", "$NAME"),
        ("${NUMBER}", 42),
        ("'${NUMBER}'", "42"),
        ("${EMPTY}", ""),
        ("${STRUCTURE}", "{a: [b"),
    ],
)
def test_variables_are_replaced_inside_values(value, expected):
    environ = {"NAME": "it", "NUMBER": "42", "EMPTY": "", "STRUCTURE": "{a: [b"}
    assert load(f"key: {value}", environ, "f").data["key"] == expected


def test_missing_and_misspelt_variables_are_all_told():
    assert problems("a: ${ONE}\nb: [x, 'y ${TWO} ${THREE}']\nc: ${1X}\nd: ${OPEN\n") == [
        "f:1:4: a: the environment variable ONE is not set: set it, or give it a default as in ${ONE:-value}",
        "f:2:8: b[1]: the environment variable TWO is not set: set it, or give it a default as in ${TWO:-value}",
        "f:3:4: c: holds a ${ that names no variable: write ${NAME} or $${ for the text itself",
        "f:4:4: d: holds a ${ that names no variable: write ${NAME} or $${ for the text itself",
    ]


def test_variables_do_not_become_keys():
    assert load("${NAME}: 1", {"NAME": "it"}, "f").data == {"${NAME}": 1}


def test_keys_that_stand_twice_are_refused_wherever_they_are():
    assert problems("a: 1\nb: {c: 1, c: 2, c: 3}\na: 2\n") == [
        "f:2:11: b.c: stands twice: the first one is in line 2, remove one of them",
        "f:2:17: b.c: stands twice: the first one is in line 2, remove one of them",
        "f:3:1: a: stands twice: the first one is in line 1, remove one of them",
    ]


def test_aliases_and_merges():
    document = load("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\nc: *x\nd: {<<: [*x, {m: 4, l: 5}]}\n", {}, "f")
    assert document.data == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 3, "l": 2},
        "c": {"k": 1, "l": 2},
        "d": {"k": 1, "l": 2, "m": 4},
    }
    assert document.places["b", "k"].line == 2
    assert document.places["b", "l"].line == 1


@pytest.mark.parametrize(
    "text,message",
    [
        ("a: &x [*x]", "f:1:4: a[0]: contains itself through an alias"),
        ("a: &x {<<: *x}", "f:1:4: a.<<: merges something that is no mapping"),
        ("a: {<<: 5}", "f:1:4: a.<<: merges something that is no mapping"),
        ("a: !!set x", "f:1:4: a: has the YAML tag tag:yaml.org,2002:set: write the plain value"),
        ("a: !mine 1", "f:1:4: a: has the YAML tag !mine: write the plain value"),
        ("? [a]\n: 1", "f:1:3: has a key that is no word: write plain words as keys"),
        (
            "a: [1, 2",
            "f:1:9: is not YAML here: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        ("a: [1, ${X:-2}]", 'f:1:8: has a variable without quotes between [] or {}: write "${X:-2}"'),
        ("a:\n  b: {c: ${X}, d: 1}", 'f:2:10: has a variable without quotes between [] or {}: write "${X}"'),
        ("a: {c: ${X}", 'f:1:8: has a variable without quotes between [] or {}: write "${X}"'),
        ("a: b: c", "f:1:5: is not YAML here: mapping values are not allowed here"),
        ("a: 'b", "f:1:6: is not YAML here: while scanning a quoted scalar found unexpected end of stream"),
        (
            "a: 1\n---\nb: 2",
            "f:2:1: is not YAML here: expected a single document in the stream but found another document",
        ),
        ("a: 1\nb: \x01", "f:2:4: the character U+0001 is not allowed: remove it"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text, message):
    assert problems(text) == [message]


@pytest.mark.slow
def test_a_small_text_cannot_become_a_huge_tree():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert problem.endswith("has more than 100000 values")


def test_merging_cannot_make_a_small_text_a_huge_tree_either():
    lines = ["a0: &a0 {}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert problem.endswith("has more than 100000 values")


@pytest.mark.slow
def test_deep_nesting_is_refused():
    assert problems("[" * 5000) == ["f:1:1: is nested too deeply"]


def test_passwords_in_urls_and_control_characters_are_not_shown():
    document = load('a: http://me:secret@host\nb: "x\\e[31m"\nc: ' + "z" * 200, {}, "f")
    assert document.places["a",].shown == "http://***@host"
    assert document.places["b",].shown == "x�[31m"
    assert len(document.places["c",].shown) == 61


@given(st.text(max_size=200))
def test_any_text_is_data_or_refused(text):
    for line in problems(text):
        name, row, column, _ = line.split(":", 3)
        assert (name, int(row) >= 1, int(column) >= 1) == ("f", True, True)

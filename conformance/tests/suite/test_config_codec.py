"""Configs survive JSON and one line of text, and text that has gone stale is refused."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance import config_codec as codec


class Layout(enum.Enum):
    FLAT = 0
    BLOCK = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    batch: int
    shape: tuple[int, ...] = (1,)
    dtype: str = "bfloat16"
    scale: float = 1.0
    window: float | None = None
    layout: Layout = Layout.FLAT
    inner: Inner = Inner()
    pairs: tuple[tuple[int, int], ...] = ()
    flag: bool = False
    note: str | None = None


CONFIGS = st.builds(
    Config,
    batch=st.integers(-(2**40), 2**40),
    shape=st.lists(st.integers(0, 512), max_size=4).map(tuple),
    dtype=st.one_of(st.sampled_from(("bfloat16", "null", "true", "8x", "")), st.text(max_size=6)),
    scale=st.one_of(st.floats(allow_nan=False), st.integers(-3, 3)),
    window=st.one_of(st.none(), st.floats(allow_nan=False)),
    layout=st.sampled_from(Layout),
    inner=st.builds(Inner, st.integers(0, 9)),
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=2).map(tuple),
    flag=st.booleans(),
    note=st.one_of(st.none(), st.text(max_size=3)),
)


@given(config=CONFIGS)
def test_a_config_survives_json_and_text(config: Config) -> None:
    plain = json.loads(json.dumps(codec.config_to_dict(config), allow_nan=False))
    assert codec.config_from_dict(Config, plain) == config
    assert codec.config_from_text(Config, codec.config_text(config)) == config


@given(config=CONFIGS)
def test_the_text_needs_no_quotes_in_a_shell(config: Config) -> None:
    harmless = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=,:.+-%~")
    assert set(codec.config_text(config)) <= harmless


def test_the_text_names_only_what_differs_from_the_defaults() -> None:
    text = codec.config_text(Config(4, shape=(2, 128), layout=Layout.BLOCK))
    assert text.rsplit(",", 1)[0] == "batch=4,shape=2:128,layout=BLOCK"


def test_one_config_has_one_digest_however_its_numbers_were_typed() -> None:
    assert codec.config_digest(Config(1, scale=3)) == codec.config_digest(Config(1, scale=3.0))
    assert codec.config_digest(Config(1)) != codec.config_digest(Config(2))


def test_a_changed_default_makes_old_text_refuse_and_says_how_to_run_it_all_the_same() -> None:
    @dataclasses.dataclass(frozen=True)
    class Old:
        batch: int = 1
        heads: int = 1

    @dataclasses.dataclass(frozen=True)
    class New:
        batch: int = 1
        heads: int = 2

    text = codec.config_text(Old(batch=3))
    with pytest.raises(ValueError, match="changed its fields or defaults"):
        codec.config_from_text(New, text)
    assert codec.config_from_text(New, text.rpartition(",")[0]) == New(batch=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batch=1,height=2", "no field 'height'; its fields are batch, shape"),
        ("batch", "'batch' is not of the form field=value"),
        ("batch=a%b", "'a%b' is no number, word or quoted JSON"),
    ],
)
def test_bad_text_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        codec.config_from_text(Config, text)


def test_a_field_without_json_form_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Odd:
        value: Any = None

    with pytest.raises(TypeError, match="type set, which has no JSON form"):
        codec.config_to_dict(Odd({1}))

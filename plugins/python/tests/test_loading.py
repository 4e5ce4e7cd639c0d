"""How a class is made with its config: by its signature, never by trying."""

import logging

import pytest

from visualpath_edge import context
from visualpath_edge.context import ConfigError
from visualpath_edge.loading import Plugin, make


class Config:
    def __init__(self, config: "dict | None" = None):
        self.got = config


class ConfigOnly:
    def __init__(self, *, config, other=1):
        self.got = config


class Cfg:
    def __init__(self, cfg):
        self.got = cfg


class Nothing:
    got = "nothing"


class Keywords:
    def __init__(self, threshold=0.5, classes=()):
        self.got = (threshold, classes)


class Needs:
    def __init__(self, threshold):
        self.got = threshold


class Anything:
    def __init__(self, **kwargs):
        self.got = kwargs


class HandsOn(Config):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class PositionalOnly:
    def __init__(self, given, /):
        self.got = given


def factory(config):
    made = Nothing()
    made.got = ("made", config)
    return made


SOME = {"threshold": 0.4}


@pytest.mark.parametrize(
    "cls, config, got",
    [
        (Config, SOME, SOME),
        (Config, {}, {}),
        (ConfigOnly, SOME, SOME),
        (Cfg, SOME, SOME),
        (Nothing, {}, "nothing"),
        (Keywords, SOME, (0.4, ())),
        (Keywords, {}, (0.5, ())),
        (Needs, SOME, 0.4),
        (Anything, SOME, SOME),
        (HandsOn, SOME, SOME),
        (PositionalOnly, SOME, SOME),
        (factory, SOME, ("made", SOME)),
    ],
)
def test_each_form_of_constructor_gets_its_config(cls, config, got):
    assert make(cls, config).got == got


def test_a_config_that_nobody_takes_is_warned_about(caplog):
    with caplog.at_level(logging.WARNING):
        assert make(Nothing, SOME).got == "nothing"
    assert "Nothing takes no config" in caplog.text and "threshold" in caplog.text


@pytest.mark.parametrize(
    "cls, config, error",
    [
        (Keywords, {"treshold": 1}, "unknown key 'treshold'; near: threshold"),
        (Keywords, {"x": 1}, "unknown key 'x'; known: classes, threshold"),
        (Needs, {}, "missing key 'threshold'"),
    ],
)
def test_keys_that_are_wrong_are_told_by_name(cls, config, error):
    with pytest.raises(ConfigError) as told:
        make(cls, config)
    assert str(told.value) == error


def test_a_type_error_of_the_constructor_comes_through_and_it_is_called_once():
    calls = []

    class Fails:
        def __init__(self, config=None):
            calls.append(config)
            raise TypeError("own")

    with pytest.raises(TypeError, match="own"):
        make(Fails, SOME)
    assert calls == [SOME]


def test_an_entry_point_without_a_class_is_an_error():
    with pytest.raises(ConfigError, match="module:Class"):
        Plugin("x", "1", "json").load()
    assert Plugin("x", "1", "json:decoder.JSONDecoder [extra]").load() is __import__("json").JSONDecoder


def test_there_is_a_context_outside_of_a_worker():
    assert context().zones == [] and context().name == ""

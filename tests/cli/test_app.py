import json

import pytest
from typer.main import get_command

from proxy import __version__
from proxy.cli import app as module
from proxy.errors import AddressInUse, StateError
from tests.cli.conftest import command, tidegate


def test_version():
    assert tidegate("version").output == f"tidegate {__version__}\n"
    assert tidegate("--version").output == f"tidegate {__version__}\n"
    assert json.loads(tidegate("version", "-o", "json").output) == {"version": __version__}


def test_help_lists_every_verb_and_each_has_help():
    result = tidegate("--help")
    assert result.exit_code == 0
    for verb in module.VERBS:
        assert f"\n  {verb} " in result.output
        assert tidegate(verb, "--help").exit_code == 0


def verbs(command, *path):
    """Every command below this one that can be called, as its words."""
    for name in command.list_commands(None):
        found = command.get_command(None, name)
        yield (*path, name), found
        if hasattr(found, "list_commands"):
            yield from verbs(found, *path, name)


def test_help_calls_values_by_what_they_are():
    seen = []
    for words, _ in verbs(get_command(module.app)):
        said = tidegate(*words, "--help").output
        assert "<" not in said.replace("<=", ""), words  # no `<str>`: NAME, FILE, DURATION speak
        seen.append(words)
    assert ("weights", "set") in seen
    assert ("rollout", "promote") in seen
    assert "[PLAN]" in tidegate("rollout", "start", "--help").output
    assert "[[PLAN]]" not in tidegate("rollout", "start", "--help").output


def test_a_mistyped_verb_is_suggested():
    result = tidegate("statsu")
    assert result.exit_code == 2
    assert "'status'" in result.output


@pytest.mark.parametrize(
    "error, code", [(StateError("is corrupt", where="/x.db"), 5), (AddressInUse("is taken", where="127.0.0.1:80"), 6)]
)
def test_our_own_errors_end_with_their_code(monkeypatch, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("proxy.controlplane.supervisor.run", fail)
    result = tidegate("run", "--stable", "http://127.0.0.1:9001")
    assert result.exit_code == code
    assert result.stderr == f"tidegate: {error}\n"


def test_help_cuts_nothing_and_shows_arguments_as_they_are_typed():
    assert "Usage: tidegate check [OPTIONS] FILE\n" in tidegate("check", "--help").output
    assert "Usage: tidegate replay [OPTIONS] JOURNAL...\n" in tidegate("replay", "--help").output
    assert "..." not in tidegate("rollout", "--help").output.replace("[ARGS]...", "")


def test_unexpected_errors_are_one_line_without_a_traceback(monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "tidegate: unexpected error: ZeroDivisionError: division by zero (TIDEGATE_DEBUG=1 shows where it came from)"
    ]
    monkeypatch.setenv("TIDEGATE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        module.main()


def test_completion_is_offered():
    # What --install-completion puts into a shell's start file; --show-completion asks which shell its parent is,
    # and that is make's here.
    done = command(env={"_TIDEGATE_COMPLETE": "source_bash"})
    assert done.returncode == 0
    assert "complete" in done.stdout


@pytest.mark.parametrize(
    "args, said",
    [
        (("plan", "x", "--rate", "nix"), "'--rate': must be a number"),
        (("simulate", "x", "--rate", "0"), "'--rate': must be at least 0.001"),
        (("simulate", "x", "--rate", "1e9"), "'--rate': must be at most 1000000"),
        (("events", "--last", "1.5"), "'--last' / '-n': must be a whole number"),
        (("status", "-o", "xml"), "'--output' / '-o': 'xml' is not one of 'text', 'json'."),
        (("weights", "set", "5%", "--if-match", "x"), "'--if-match': must be a whole number"),
    ],
)
def test_values_that_are_no_numbers_are_refused_in_plain_words(args, said):
    result = tidegate(*args)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Invalid value for {said}\n")

"""Bad input ends a command with one line and exit code 2; other errors keep their traceback."""

from __future__ import annotations

import pytest

from fit3d_ns.common.errors import EXIT_BAD_INPUT, InputError, exits_on_input_error


@exits_on_input_error
def command(path: str, *, error: BaseException | None = None) -> int:
    """What the command does."""
    if error is not None:
        raise error
    return len(path)


def test_an_input_error_becomes_one_line_on_stderr_and_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    cause = InputError("scene/transforms.json names 3 missing images, the first a.png: add or remove them.")
    with pytest.raises(SystemExit) as exit_:
        command("scene", error=cause)
    assert exit_.value.code == EXIT_BAD_INPUT == 2
    assert exit_.value.__cause__ is cause
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "error: scene/transforms.json names 3 missing images, the first a.png: add or remove them.\n"


def test_the_sentence_is_printed_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    sentence = "[bold]odd %s {name}[/bold] " + 40 * "long/" + " ü"
    with pytest.raises(SystemExit):
        command("scene", error=InputError(sentence))
    assert capfd.readouterr().err == f"error: {sentence}\n"


class NarrowerError(InputError):
    pass


def test_errors_derived_from_it_count_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("scene", error=NarrowerError("too few views."))
    assert capfd.readouterr().err == "error: too few views.\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(7), FileNotFoundError("gone")])
def test_other_errors_pass_through_without_a_word(capfd: pytest.CaptureFixture[str], error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        command("scene", error=error)
    assert caught.value is error
    assert capfd.readouterr() == ("", "")


def test_without_an_error_the_function_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("scene") == 5
    assert capfd.readouterr() == ("", "")
    assert (command.__name__, command.__doc__) == ("command", "What the command does.")

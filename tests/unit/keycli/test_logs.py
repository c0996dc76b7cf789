"""One form for every log record, and nothing secret in any."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from keycli.logs import configure_logs
from keycore.settings import LogSettings

SECRET = "0123456789012345"


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_our_loggers_and_those_of_libraries_give_the_same_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(LogSettings(format="json"), face="operator")

    structlog.get_logger("keyplugin").warning("it is so", node="cp-1")
    logging.getLogger("kopf.objects").warning("it is %s", "so")

    ours, theirs = map(json.loads, lines(capsys))
    assert ours.pop("node") == "cp-1"
    assert ours.pop("logger") == "keyplugin"
    assert theirs.pop("logger") == "kopf.objects"
    assert ours.pop("time")[-1] == theirs.pop("time")[-1] == "Z"
    assert ours == theirs == {"message": "it is so", "level": "warning", "face": "operator"}


def test_the_console_form_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(), face="provider")

    structlog.get_logger("keyplugin").info("serving", socket="/run/kms.sock")

    (line,) = lines(capsys)
    assert "\x1b" not in line
    for part in ("[info", "serving", "[keyplugin]", "face=provider", "socket=/run/kms.sock"):
        assert part in line


def test_records_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(level="warning"))

    structlog.get_logger("ours").info("no")
    logging.getLogger("theirs").info("no")
    structlog.get_logger("ours").error("yes")

    assert len(lines(capsys)) == 1


def test_quiet_lets_only_warnings_through(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(level="debug"), quiet=True)

    structlog.get_logger("ours").info("no")
    structlog.get_logger("ours").warning("yes")

    assert len(lines(capsys)) == 1


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_local_variable(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logs(LogSettings.model_validate({"format": form}))

    def login(pin: str) -> None:
        raise ValueError(len(pin))

    try:
        login(SECRET)
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")

    written = "\n".join(lines(capsys))
    assert written.count("ValueError: 16") == 2
    assert SECRET not in written


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("kubernetes.client.rest", logging.DEBUG),
        ("sqlalchemy.engine.Engine", logging.INFO),
        ("sqlalchemy.pool", logging.DEBUG),
        ("alembic.runtime.migration", logging.INFO),
    ],
)
def test_libraries_that_log_bodies_or_statements_stay_silent_at_debug_level(
    capsys: pytest.CaptureFixture[str], name: str, record: int
) -> None:
    # Some libraries choose a level at import, others do not; neither is relied on.
    logging.getLogger(name.split(".", maxsplit=1)[0]).setLevel(logging.NOTSET)

    configure_logs(LogSettings(level="debug"))

    logging.getLogger(name).log(record, "INSERT INTO secrets")

    assert lines(capsys) == []


def test_a_record_about_a_resource_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(LogSettings(format="json"))

    extra = {"k8s_ref": {"namespace": "demo", "name": "etcd"}}
    logging.getLogger("kopf.objects").info("created", extra=extra)

    assert json.loads(lines(capsys)[0])["resource"] == "demo/etcd"

"""Reading the API server's audit log."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness import audit
from tests.harness.errors import HarnessError

EVENT: dict[str, Any] = {
    "kind": "Event",
    "stage": "ResponseComplete",
    "requestURI": "/apis/modelserving.dev/v1alpha1/namespaces/models/modelservings/l4/status",
    "verb": "patch",
    "user": {"username": "system:serviceaccount:models:modelserving-operator"},
    "objectRef": {
        "resource": "modelservings",
        "namespace": "models",
        "name": "l4",
        "apiGroup": "modelserving.dev",
        "subresource": "status",
    },
    "responseStatus": {"metadata": {}, "code": 200},
}


def test_a_request_is_named_as_a_role_names_it() -> None:
    request = audit.Request.parse(EVENT)
    assert (request.verb, request.group, request.resource) == (
        "patch",
        "modelserving.dev",
        "modelservings/status",
    )
    assert (request.namespace, request.status) == ("models", 200)


def test_a_request_for_no_object_and_one_without_an_answer_are_read() -> None:
    event = {key: EVENT[key] for key in ("requestURI", "verb", "user")}
    request = audit.Request.parse(event)
    assert (request.group, request.resource, request.status) == ("", "", 0)


@pytest.mark.parametrize(("decision", "forbidden"), [("forbid", True), ("allow", False)])
def test_what_a_permission_lacked_for_is_told_from_what_admission_refused(
    decision: str, forbidden: bool
) -> None:
    refused = {**EVENT, "responseStatus": {"code": 403}}
    refused["annotations"] = {"authorization.k8s.io/decision": decision}
    assert audit.Request.parse(refused).forbidden is forbidden
    assert audit.Request.parse(EVENT).forbidden is False


SINCE = datetime(2026, 11, 24, 16, tzinfo=UTC)


def line(verb: str, minute: int = 0) -> str:
    received = f"2026-11-24T16:{minute:02}:30.123456Z"
    return json.dumps({**EVENT, "verb": verb, "requestReceivedTimestamp": received}) + "\n"


def verbs(directory: Path, since: datetime = SINCE) -> list[str]:
    return [each.verb for each in audit.requests(directory, since=since)]


def test_rotated_files_come_first_and_half_a_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_text(line("list") + line("watch")[:40])
    (tmp_path / "audit-2026-11-24T16-00-00.000.log").write_text(line("get"))
    assert verbs(tmp_path, SINCE + timedelta(minutes=1)) == ["get", "list"]


def test_a_log_that_may_have_lost_requests_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_text(line("list", minute=9))
    assert verbs(tmp_path) == ["list"]
    (tmp_path / "audit-2026-11-24T16-08-00.000.log").write_text(line("get", minute=5))
    with pytest.raises(HarnessError, match="lost requests"):
        verbs(tmp_path)


def test_a_log_that_is_rotated_while_it_is_opened_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def glob(directory: Path, pattern: str) -> list[Path]:
        log.rename(rotated)
        log.write_text(line("watch"))
        return [rotated]

    log, rotated = tmp_path / "audit.log", tmp_path / "audit-2026-11-24T16-08-00.000.log"
    log.write_text(line("get") + line("list"))
    monkeypatch.setattr(Path, "glob", glob)
    assert verbs(tmp_path, SINCE + timedelta(minutes=1)) == ["get", "list"]


def test_no_log_is_an_error_and_not_good_news(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        verbs(tmp_path)

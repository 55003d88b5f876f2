"""What agents import, as they call it: `SessionContext(session_id=, task_id=, headers_config=)`, `.set_timing`, `.get_headers`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from controller.client import DEFAULT_HEADERS, SessionContext


def test_the_headers_that_teams_have() -> None:
    assert list(DEFAULT_HEADERS.values()) == ["X-Session-ID", "X-Task-ID", "X-Client-ID", "X-Timing-Pre-Ms", "X-Timing-Post-Ms"]
    session = SessionContext(session_id="chat-42", task_id="fix-the-build", client_id="agent-7")
    session.set_timing(pre_ms=120, post_ms=40.5)
    assert session.get_headers() == {
        "X-Session-ID": "chat-42",
        "X-Task-ID": "fix-the-build",
        "X-Client-ID": "agent-7",
        "X-Timing-Pre-Ms": "120",
        "X-Timing-Post-Ms": "40.5",
    }


def test_timing_goes_with_one_request() -> None:
    session = SessionContext("s")
    session.set_timing(pre_ms=1)
    session.set_timing(post_ms=2)
    session.set_timing(pre_ms=3)
    assert session.get_headers() == {"X-Session-ID": "s", "X-Timing-Pre-Ms": "3", "X-Timing-Post-Ms": "2"}
    assert session.get_headers() == {"X-Session-ID": "s"}
    session.set_timing(pre_ms=0)
    assert session.get_headers()["X-Timing-Pre-Ms"] == "0"


def test_without_an_id_it_makes_one_and_keeps_it() -> None:
    one, other = SessionContext(), SessionContext(task_id="t")
    assert one.get_headers() == one.get_headers() == {"X-Session-ID": one.session_id}
    assert one.session_id != other.session_id
    assert len(one.session_id) == 32
    assert other.get_headers()["X-Task-ID"] == "t"


def test_headers_are_renamed_one_by_one() -> None:
    config = {"session_id": "X-Conversation", "timing_pre_ms": "X-Before"}
    session = SessionContext("s", "t", headers_config=config)
    session.set_timing(pre_ms=5, post_ms=6)
    assert session.get_headers() == {"X-Conversation": "s", "X-Task-ID": "t", "X-Before": "5", "X-Timing-Post-Ms": "6"}
    assert DEFAULT_HEADERS["session_id"] == "X-Session-ID"


def test_a_header_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="headers_config: sesion, tsk is not known; there are session_id, task_id") as error:
        SessionContext("s", headers_config={"tsk": "X", "sesion": "Y"})
    assert "timing_post_ms" in str(error.value)


@pytest.mark.parametrize("value", ["", "a\r\nX-Admin: 1", "é", "x" * 257, "\x00"])
@pytest.mark.parametrize("name", ["session_id", "task_id", "client_id"])
def test_what_a_header_cannot_hold_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 1 to 256 printable ASCII characters"):
        SessionContext(**{"session_id": "s", name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 86_400_000, float("nan"), float("inf")])
def test_what_is_no_time_is_refused(value: float) -> None:
    session = SessionContext("s")
    for name in ("pre_ms", "post_ms"):
        given: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"timing_{name} is a number of milliseconds below a day"):
            session.set_timing(**given)
    assert session.get_headers() == {"X-Session-ID": "s"}


def test_it_brings_nothing_of_ours_into_an_agent() -> None:
    code = (
        "import sys; import controller.client\n"
        "own = sorted(name for name in sys.modules if name.startswith('controller'))\n"
        "print(own, [name for name in ('pydantic', 'msgspec', 'pygit2', 'yaml', 'click', 'openai') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['controller', 'controller.client'] []"

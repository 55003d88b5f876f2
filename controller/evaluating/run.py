"""One evaluation from order to result: ask both sides, judge the pairs, conclude. Resumable at every line of its journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any

import msgspec

from controller.clients.evaluation_serving import MARKS, name_of
from controller.clients.evaluation_work import Journal, Order, Work
from controller.clients.huggingface import Hub
from controller.clients.langsmith import LangSmith
from controller.clients.model_records import Call as Asked
from controller.clients.model_records import Reply, Verdict
from controller.clients.models import Models
from controller.environment import Endpoint, Price
from controller.errors import Permanent, Temporary
from controller.evaluating.asking import Crew, Halt, Outage, Purse
from controller.evaluating.checking import answer_of, checks_of
from controller.evaluating.experiments import logged
from controller.evaluating.judging import JudgeReply, judged
from controller.evaluating.questions import Questions, gathered
from controller.evaluating.result import concluded
from controller.evaluating.serving import Serving
from controller.judgement.orders import Call, interleaved
from controller.judgement.results import Answer, Judged
from controller.settings import Settings

Key = tuple[str, str, int]
TELL_SECONDS = 1.0


class Evaluation:
    """The state of one run. `stop` says why to stop, or nothing; `now` is the wall clock; `say` prints a line of progress.

    `hub` is Hugging Face: for questions that lie there, and for endpoints that a side needs.
    """

    def __init__(
        self,
        order: Order,
        work: Work,
        settings: Settings,
        models: Models,
        langsmith: LangSmith | None,
        hub: Hub,
        *,
        stop: Callable[[], str],
        now: Callable[[], datetime],
        say: Callable[[str], None],
    ) -> None:
        self.order, self.work, self.settings = order, work, settings
        self.models, self.langsmith, self.hub = models, langsmith, hub
        self.stop, self.now, self.say = stop, now, say
        self.answers: dict[Key, Answer] = {}
        self.judged: dict[tuple[str, int], Judged] = {}
        self.unsure: dict[str, int] = {}  # calls, and how often a process began them and died before it noted the answer
        self.unmeasured: dict[str, str] = {}
        self.purse = Purse(order.ceiling)
        self.serving = Serving(
            order, work, hub, self.purse, stop=stop, now=now, tell=lambda text: self._tell("running", waiting=text)
        )
        self.purse.standing = self.serving.reserve
        self.models.listed_prices |= _listed_prices(order)
        self.outage = Outage(models.spec.outage)
        self.checks = checks_of(order.spec)
        self.total = 0
        self.told: datetime | None = None
        self.waiting = ""

    def run(self) -> str:
        """`ended`, `stopped` (goes on later) or `failed` (a person has to do something first); all is on disk by then."""
        left = ""
        try:
            self._recall()
            self.journal = Journal(self.work.path("calls.jsonl"))
            self.serving.begin(self.journal)
            questions = gathered(self.order, self.work, self.settings, self.langsmith, self.hub)
            halt = self._ask_all(questions)
        except (Temporary, Permanent) as error:
            halt, questions = Halt(str(error), error), None
        finally:
            left = self.serving.close()
        if halt is not None and not halt.ceiling:
            phase = "failed" if isinstance(halt.error, Permanent) else "stopped"
            self._tell(phase, f"{halt.reason}; {left}" if left else halt.reason)
            return phase
        assert questions is not None
        notes = [*questions.notes, *([f"Stopped early: {halt.reason}."] if halt else [])]
        notes += [f"{name} could not measure some answers: {why}." for name, why in sorted(self.unmeasured.items())]
        notes += [f"Endpoints {left}."] if left else []
        result = concluded(self.order, questions, list(self.answers.values()), list(self.judged.values()), self._cost(), notes)
        links, note = logged(self.langsmith, self.order, questions, result)
        self.work.write("result.json", msgspec.json.encode(result.with_links(links, note).as_json()))
        self._tell("ended")
        return "ended"

    # -- what an earlier process did ---------------------------------------------------------------------------------

    def _recall(self) -> None:
        for line in self.work.lines("calls.jsonl"):
            if any(mark in line for mark in MARKS):
                continue
            if "begun" in line:
                self.unsure[line["begun"]] = self.unsure.get(line["begun"], 0) + 1
                continue
            self.unsure.pop(line.get("settled", ""), None)
            if "answer" in line:
                answer = msgspec.convert(line["answer"], Answer)
                self.answers[_key(answer)] = answer
                self.unsure.pop(_name(*_key(answer)), None)
            if "judged" in line:
                one = msgspec.convert(line["judged"], Judged)
                self.judged[one.example, one.repetition] = one
                self.unsure.pop(_name("judge", one.example, one.repetition), None)
            self.unmeasured |= line.get("unmeasured", {})
            self.purse.settle(line.get("what", ""), 0.0, line.get("usd"))
        for name, count in self.unsure.items():
            self.purse.spent += count * self._worst(name)

    def _worst(self, name: str) -> float:
        """USD that a call may have cost of which nobody knows."""
        parts = name.split("\0")
        return self.order.worst.get("judge" if parts[0] == "judge" else parts[1]) or 0.0

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask_all(self, questions: Questions) -> Halt | None:
        spec = self.order.spec
        calls = interleaved(sorted(questions.by_id), repetitions=spec["repetitions"], seed=spec["seed"])
        self.total = len(calls) + (len(calls) // 2 if spec["judge"] else 0)
        self._tell("running", always=True)
        for last in (False, True):  # what an outage left unanswered is asked once more at the end, then it is an error
            todo = [call for call in calls if (call.example, call.side, call.repetition) not in self.answers]
            halt = self._serve({call.side for call in todo}) or self._crew(self._asker(questions, last)).run(todo)
            if halt is not None:
                return halt
        self.serving.close()  # judging takes long, and needs none of them; what is left is tried again at the end
        return self._judge_all(questions) if spec["judge"] else None

    def _serve(self, sides: Collection[str]) -> Halt | None:
        """Creates what these sides need, and makes it known to the door of models. Raises Temporary, Permanent."""
        halt = self.serving.ready(sides)
        for side, there in self.serving.there.items():
            target = getattr(self.order, side)
            written = self.settings.spec.endpoints.get(target["endpoint"])
            terms = {"timeout": written.timeout} if written else {}
            place = Endpoint.model_validate({"url": f"{there.url.rstrip('/')}/v1", **terms})
            self.models.serve(self._place(side), place, self.hub.session.token, name_of(self.order.intent, side))
        return halt

    def _place(self, side: str) -> str:
        """The name of a side's endpoint: two sides may be created by one entry of environment.yaml."""
        name: str = getattr(self.order, side)["endpoint"]
        return f"{name}, created for the {side}" if side in self.serving.rules else name

    def _asker(self, questions: Questions, last: bool) -> tuple[Any, Any, Any]:
        def do(call: Call) -> tuple[Reply, Answer, dict[str, str]]:
            question = questions.by_id[call.example]
            reply = self.models.ask(self._asked(call, question.messages))
            if reply.error_kind == "temporary":
                self.outage.note(reply.error)
            else:
                self.outage.note("")
            return reply, *answer_of(call, reply, self.checks, question.example)

        def after(call: Call, found: tuple[Reply, Answer, dict[str, str]]) -> float | None:
            reply, answer, why = found
            name = _name(*_key(answer))
            usd, counted = self._paid([reply], call.side, name)
            usd = 0.0 if call.side in self.serving.rules else usd  # paid by the minute
            line: dict[str, Any] = {"what": call.side, "usd": usd, "settled": name}
            if last or reply.error_kind != "temporary":
                self.answers[_key(answer)] = answer
                self.unmeasured |= why
                line |= {"answer": msgspec.to_builtins(answer), "started": reply.started}
                line |= {"unmeasured": why} if why else {}
            self.journal.append(line)
            self._tell("running")
            return None if usd is None else usd - counted

        def before(call: Call) -> None:
            self.journal.append({"begun": _name(call.example, call.side, call.repetition)})

        return do, before, after

    def _asked(self, call: Call, messages: tuple[dict[str, Any], ...]) -> Asked:
        target, spec = getattr(self.order, call.side), self.order.spec
        parameters = {"temperature": spec["temperature"], "max_tokens": spec["maxTokens"]}
        return Asked(self._place(call.side), target["model"], messages, parameters, sample=call.repetition)

    # -- judging -----------------------------------------------------------------------------------------------------

    def _judge_all(self, questions: Questions) -> Halt | None:
        judge = self.order.spec["judge"]

        def do(pair: tuple[Answer, Answer]) -> tuple[Judged, list[Verdict[JudgeReply]]]:
            found = judged(self.models, judge, questions.by_id[pair[0].example], *pair)
            self.outage.note(next((r.error for v in found[1] for r in v.replies if r.error_kind == "temporary"), ""))
            return found

        def before(pair: tuple[Answer, Answer]) -> None:
            self.journal.append({"begun": _name("judge", pair[0].example, pair[0].repetition)})

        def after(pair: tuple[Answer, Answer], found: tuple[Judged, list[Verdict[JudgeReply]]]) -> float | None:
            one, verdicts = found
            replies = [reply for verdict in verdicts for reply in verdict.replies]
            usd, counted = self._paid(replies, "judge", _name("judge", one.example, one.repetition))
            self.judged[one.example, one.repetition] = one
            self.journal.append({"what": "judge", "usd": usd, "judged": msgspec.to_builtins(one)})
            self._tell("running")
            return None if usd is None else usd - counted

        return self._crew((do, before, after)).run(self._pairs())

    def _pairs(self) -> Iterable[tuple[Answer, Answer]]:
        """Pairs that both sides answered and no judge has seen, in the order of the calls."""
        for (example, side, repetition), mine in list(self.answers.items()):
            theirs = self.answers.get((example, "baseline", repetition))
            if side != "candidate" or theirs is None or mine.error or theirs.error or (example, repetition) in self.judged:
                continue
            yield mine, theirs

    def _crew(self, parts: tuple[Any, Any, Any]) -> Crew[Any, Any]:
        do, before, after = parts

        def worst(task: Any) -> tuple[str, float | None]:
            what = task.side if isinstance(task, Call) else "judge"
            return what, self.order.worst.get(what)

        return Crew(
            do,
            purse=self.purse,
            worst=worst,
            before=before,
            after=after,
            stop=self.stop,
            concurrency=self.order.spec["concurrency"],
        )

    # -- money and progress ------------------------------------------------------------------------------------------

    def _paid(self, replies: list[Reply], what: str, name: str) -> tuple[float | None, float]:
        """What this call cost this evaluation (None where nobody knows), and what of it the purse has counted already.

        One from the cache was paid before: by this evaluation where it had begun that call and died before it noted the answer.
        An attempt that may have been billed although no answer came counts as the worst, one of a process that died too.
        """
        begun, worst = self.unsure.pop(name, 0), self.order.worst.get(what) or 0.0
        kept = bool(begun) and all(reply.cached for reply in replies)  # the last of them was answered after all
        total = (begun - kept) * worst
        for reply in replies:
            total += 0.0 if reply.cached else reply.unanswered * worst
            usd = reply.cost_usd if begun or not reply.cached else 0.0
            if usd is None and not reply.error:
                return None, 0.0
            total += usd or 0.0
        return total, begun * worst

    def _cost(self) -> float | None:
        return None if self.purse.unknown else self.purse.spent + self.serving.owed()

    def _tell(self, phase: str, reason: str = "", *, always: bool = False, waiting: str = "") -> None:
        """Replaces progress.json, at most once a second while it runs; prints a line with it."""
        now = self.now()
        always = always or waiting != self.waiting
        self.waiting = waiting
        if phase == "running" and not always and self.told and (now - self.told).total_seconds() < TELL_SECONDS:
            return
        self.told = now
        line = {
            "phase": phase,
            "done": len(self.answers) + len(self.judged),
            "total": self.total,
            "cost_usd": self._cost(),
            "errors": sum(bool(answer.error) for answer in self.answers.values()),
            "at": now.isoformat(),
            "reason": reason,
            **({"waiting": waiting} if waiting else {}),
        }
        self.work.write("progress.json", json.dumps(line).encode())
        self.say(json.dumps(line))


def _listed_prices(order: Order) -> dict[tuple[str, str], Price]:
    """Prices that its endpoints listed when it started, by endpoint and model."""
    targets = {"candidate": order.candidate, "baseline": order.baseline, "judge": order.spec["judge"]}
    found = order.state.get("prices", {})
    return {
        (targets[name]["endpoint"], targets[name]["model"]): Price.model_validate(price, strict=False)
        for name, price in found.items()
    }


def _key(answer: Answer) -> Key:
    return answer.example, answer.side, answer.repetition


def _name(*parts: object) -> str:
    return "\0".join(map(str, parts))

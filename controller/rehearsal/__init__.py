"""A rehearsal: the whole of an environment on this machine, in a copy of the repository, with a double of every vendor.

`turnout up --rehearse` calls `rehearse`. Nobody outside is asked and nothing is paid; what is trained is a tiny model under the
name of the real one, and what models answer is invented. Plans, prices, approvals, budgets, jobs, verdicts, rollouts and events
are real.

    copy.py    what of environment and state is another in the copy (pure)
    seeds.py   what the doubles know: base models, data sets, answers
    run.py     the copy on disk, its processes, its end
"""

from controller.rehearsal.run import end, place_of, rehearse

__all__ = ["end", "place_of", "rehearse"]
